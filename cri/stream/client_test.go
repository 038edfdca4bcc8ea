package stream

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// fakes are Targets that hold one container "c" and one sandbox "s".
type fakes struct {
	exec   func(context.Context, runtime.ExecConfig) (runtime.Exit, error)
	attach func(context.Context, runtime.Streams) error
	dial   func(context.Context, int) (net.Conn, error)
}

func (f *fakes) Container(id, verb string) (runtime.Container, error) {
	if id != "c" {
		return nil, errdefs.ErrNotFound.WithMessage(verb + " container: not found")
	}
	return fakeContainer{f: f}, nil
}

func (f *fakes) Sandbox(id string) (sandbox.Sandbox, error) {
	if id != "s" {
		return nil, errdefs.ErrNotFound
	}
	return fakeSandbox{f: f}, nil
}

type fakeContainer struct {
	runtime.Container
	f *fakes
}

func (c fakeContainer) Exec(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
	return c.f.exec(ctx, e)
}

func (c fakeContainer) Attach(ctx context.Context, st runtime.Streams) error {
	return c.f.attach(ctx, st)
}

type fakeSandbox struct {
	sandbox.Sandbox
	f *fakes
}

func (s fakeSandbox) Dial(ctx context.Context, port int) (net.Conn, error) {
	return s.f.dial(ctx, port)
}

func newServer(t *testing.T, f *fakes) *Server {
	t.Helper()
	return newServerWith(t, Options{}, f)
}

func newServerWith(t *testing.T, o Options, f *fakes) *Server {
	t.Helper()
	o.Address, o.Log = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	s, err := New(o, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func execURL(t *testing.T, s *Server, r *v1.ExecRequest) string {
	t.Helper()
	r.ContainerId, r.Cmd = "c", []string{"cmd"}
	resp, err := s.GetExec(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

func portForwardURL(t *testing.T, s *Server) string {
	t.Helper()
	resp, err := s.GetPortForward(&v1.PortForwardRequest{PodSandboxId: "s", Port: []int32{80}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Url
}

// client is a SPDY client as the kubelet's API clients are.
type client struct {
	t    *testing.T
	conn httpstream.Connection
}

func dialSPDY(t *testing.T, url, protocol string) client {
	t.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return client{t, conn}
}

func (c client) open(kind string) httpstream.Stream {
	c.t.Helper()
	s, err := c.conn.CreateStream(http.Header{remotecommand.StreamType: {kind}})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// openPort opens the two streams of a forwarded port.
func (c client) openPort(id int) (data, errs httpstream.Stream) {
	c.t.Helper()
	h := http.Header{}
	h.Set(remotecommand.StreamType, "error")
	h.Set("port", "80")
	h.Set("requestID", strconv.Itoa(id))
	errs, err := c.conn.CreateStream(h)
	if err != nil {
		c.t.Fatal(err)
	}
	h.Set(remotecommand.StreamType, "data")
	if data, err = c.conn.CreateStream(h); err != nil {
		c.t.Fatal(err)
	}
	return data, errs
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("read: %v", err)
	}
	return string(b)
}
