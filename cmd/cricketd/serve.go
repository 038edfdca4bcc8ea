package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"

	"github.com/cricket-cri/cricket/cri"
	"github.com/cricket-cri/cricket/cri/config"
)

// maxMessage is the largest gRPC message in bytes: what the kubelet takes.
const maxMessage = 16 << 20

// serve answers calls until ctx ends, then lets those under way come to their end.
func (d *daemon) serve(ctx context.Context, c config.Config) error {
	l, err := listen(c.Socket)
	if err != nil {
		return err
	}
	i := cri.NewInterceptor(d.log, d.metrics.Observe)
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream))
	d.server.Register(g)
	stopMetrics, err := d.serveMetrics(c.Metrics.Address)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer stopMetrics()
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	d.notify(systemd.SdNotifyReady)
	d.log.Info("cricketd serves", "socket", c.Socket, "version", version)
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", c.Socket, err)
	case <-ctx.Done():
	}
	d.notify(systemd.SdNotifyStopping)
	d.log.Info("cricketd stops; pods go on")
	stopServing(g, d.server)
	return nil
}

// stopServing gives calls under way some time. Event streams have no end of their own.
func stopServing(g *grpc.Server, s *cri.Server) {
	s.EndEvents()
	t := time.AfterFunc(drainTime, g.Stop)
	defer t.Stop()
	g.GracefulStop()
}

func (d *daemon) notify(state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		d.log.Warn("systemd is not notified", "error", err)
	}
}

// serveMetrics serves Prometheus metrics if there is an address for them.
func (d *daemon) serveMetrics(address string) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w; choose another --metrics-address", err)
	}
	s := &http.Server{Handler: d.metrics.Handler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("metrics are not served any more", "error", err)
		}
	}()
	return func() { s.Close(); <-done }, nil
}
