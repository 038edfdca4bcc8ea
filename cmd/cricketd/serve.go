package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
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
	l, err := listen(ctx, c.Socket)
	if err != nil {
		return err
	}
	i := cri.NewInterceptor(d.log, d.metrics.Observe)
	g := grpc.NewServer(slices.Concat(d.traces.calls(), i.Options(),
		[]grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage)})...)
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
	d.server.EndEvents()
	stopServing(g, i)
	return nil
}

// partTime is how long clients may take to receive their last answers and to leave.
const partTime = 200 * time.Millisecond

// stopServing gives calls under way some time, and connections without any but a moment:
// grpc would wait two minutes for a client that never said anything. What is left ends
// with the process. Event streams must have been ended: they have no end of their own.
func stopServing(g *grpc.Server, i *cri.Interceptor) {
	stopped, idle := make(chan struct{}), make(chan struct{})
	go func() { g.GracefulStop(); close(stopped) }()
	go func() { i.AwaitIdle(); close(idle) }()
	drained := time.After(drainTime)
	select {
	case <-stopped:
		return
	case <-drained:
		go g.Stop() // ends the contexts of calls
		return
	case <-idle:
	}
	select {
	case <-stopped:
	case <-time.After(partTime):
	}
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
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		d.log.Warn("metrics are served to other machines, without authentication", "address", a.String())
	}
	s := &http.Server{Handler: d.metrics.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("metrics are not served any more", "error", err)
		}
	}()
	return func() {
		_ = s.Close() // of a listener that is given up
		<-done
	}, nil
}
