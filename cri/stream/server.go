// Package stream serves exec, attach and port-forward sessions over SPDY and WebSocket,
// on k8s.io/cri-streaming.
//
// The kubelet asks for a session by RPC and gets a URL with a token that is good for
// one use within a minute; whoever has it needs no other credential, so the server
// listens on loopback only. A session ends when its client's connection does, whether
// or not anything is being written, and with an error when the server is closed; the
// process that was executed goes on in both cases.
package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// Targets finds what sessions talk to. Ids may be unique prefixes. Errors:
// errdefs.ErrNotFound, errdefs.ErrFailedPrecondition if the thing does not run.
type Targets interface {
	// Container finds a running container; verb completes "cannot VERB container" in
	// the error: "exec in", "attach to".
	Container(id, verb string) (runtime.Container, error)
	// Sandbox finds a ready sandbox.
	Sandbox(id string) (sandbox.Sandbox, error)
}

// Options of a Server. The zero value of a duration takes the default.
type Options struct {
	// Address is HOST:PORT of a loopback interface; port 0 takes a free one.
	Address string
	// IdleTimeout ends a session over which nothing moves. Default 4 hours.
	IdleTimeout time.Duration
	// CreationTimeout is how long a client may take to open its streams. Default 30 s.
	CreationTimeout time.Duration
	// KeepAlive is how long a connection without a session stays that asks for nothing more.
	// Default 30 s.
	KeepAlive time.Duration
	Log       *slog.Logger
}

// Server is the streaming server. It listens from New until Close.
type Server struct {
	sessions streaming.Server
	targets  Targets
	http     *http.Server
	listener net.Listener
	ctx      context.Context // of all sessions
	cancel   context.CancelFunc
	wg       sync.WaitGroup // the server's own goroutine and the sessions
	log      *slog.Logger
}

// New listens on the address and serves sessions with targets until Close.
func New(o Options, targets Targets) (*Server, error) {
	listener, err := listen(o.Address)
	if err != nil {
		return nil, err
	}
	s := &Server{targets: targets, listener: listener, log: o.Log}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	c := streaming.DefaultConfig
	c.BaseURL = &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/"}
	if o.IdleTimeout > 0 {
		c.StreamIdleTimeout = o.IdleTimeout
	}
	if o.CreationTimeout > 0 {
		c.StreamCreationTimeout = o.CreationTimeout
	}
	if s.sessions, err = streaming.NewServer(c, sessions{s}); err != nil {
		listener.Close()
		return nil, fmt.Errorf("make streaming server: %w", err)
	}
	s.http = &http.Server{
		Handler:           wholeFrames(s.sessions),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       cmp.Or(o.KeepAlive, 30*time.Second), // sessions have taken their connections over
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ConnContext:       connContext,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	s.wg.Go(func() {
		if err := s.http.Serve(watchListener{listener}); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("streaming server ended", "error", err)
		}
	})
	return s, nil
}

func listen(address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for streams: %w", err)
	}
	if a, ok := listener.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		listener.Close()
		return nil, fmt.Errorf("listen for streams: %w: %s is not a loopback address", errdefs.ErrInvalidArgument, address)
	}
	return listener, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close ends all sessions with an error and waits for them, or for ctx.
func (s *Server) Close(ctx context.Context) error {
	s.cancel()
	err := s.http.Close()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for streaming sessions: %w", context.Cause(ctx))
	}
}

// GetExec answers the URL of an exec session (errdefs or gRPC status errors).
func (s *Server) GetExec(r *v1.ExecRequest) (*v1.ExecResponse, error) {
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("cmd is empty: %w", errdefs.ErrInvalidArgument)
	}
	return s.sessions.GetExec(r)
}

// GetAttach answers the URL of an attach session.
func (s *Server) GetAttach(r *v1.AttachRequest) (*v1.AttachResponse, error) {
	return s.sessions.GetAttach(r)
}

// GetPortForward answers the URL of a port-forward session.
func (s *Server) GetPortForward(r *v1.PortForwardRequest) (*v1.PortForwardResponse, error) {
	for _, p := range r.GetPort() {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("port %d is out of range: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	return s.sessions.GetPortForward(r)
}
