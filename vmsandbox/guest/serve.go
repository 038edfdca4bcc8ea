package guest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// services are what the streams of a port can ask for.
type services struct {
	guest   *Guest
	monitor *monitor.Server
	log     *slog.Logger
}

// serve answers on a port until ctx ends or the port fails.
func (s services) serve(ctx context.Context, name string) error {
	p, err := openPort(ctx, name)
	if err != nil {
		return err
	}
	return mux.Serve(ctx, p, muxOptions(s.log), func(service string, c net.Conn) { s.accept(ctx, service, c) })
}

func (s services) accept(ctx context.Context, service string, c net.Conn) {
	switch {
	case service == agent.ServiceGuest:
		agent.ServeCall(ctx, c, s.guest)
	case service == agent.ServiceMonitor:
		s.monitor.ServeConn(ctx, c)
	case strings.HasPrefix(service, agent.ServiceTCP):
		if err := forward(ctx, strings.TrimPrefix(service, agent.ServiceTCP), c); err != nil {
			s.log.Debug("forward", slog.String("service", service), slog.Any("error", err))
		}
	default:
		mux.Refuse(c, fmt.Errorf("no service is called %q: %w", service, errdefs.ErrNotFound))
	}
}

// forward connects a stream with a port on the loopback interface, IPv4 first, as
// "localhost" would be.
func forward(ctx context.Context, number string, c net.Conn) error {
	defer c.Close()
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		err = fmt.Errorf("port %q: %w", number, errdefs.ErrInvalidArgument)
		mux.Refuse(c, err)
		return err
	}
	var d net.Dialer
	to, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", number))
	if err != nil {
		var other error
		if to, other = d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", number)); other != nil {
			mux.Refuse(c, err)
			return err
		}
	}
	defer to.Close()
	if err := join(c, to); err != nil {
		return fmt.Errorf("forward to port %s: %w", number, err)
	}
	return nil
}

// parting is how long what a host has sent may take to go on when it has hung up.
const parting = 5 * time.Second

// join copies both ways until both have ended, one has failed, or the host has hung up and
// what it had sent has gone on: an answer would reach nobody.
func join(c, to net.Conn) error {
	var both, watch sync.WaitGroup
	errs, asked := make(chan error, 2), make(chan struct{})
	both.Go(func() { defer close(asked); errs <- pass(to, c) })
	both.Go(func() { errs <- pass(c, to) })
	if host, ok := c.(interface{ AwaitHangUp() }); ok { // of runtime/mux
		watch.Go(func() {
			host.AwaitHangUp()
			_ = to.SetWriteDeadline(time.Now().Add(parting)) // a closed one says so in Write
			<-asked
			to.Close()
		})
	}
	both.Wait()
	c.Close()
	watch.Wait()
	return <-errs
}

// pass copies until the end, and passes that on; an error ends the other way too.
func pass(to, from net.Conn) error {
	_, err := io.Copy(to, from)
	if err != nil {
		to.Close()
		from.Close()
		return err
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
