package stream

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// idlePod is a pod that ignores the end of its input: it says nothing until it is told to
// answer. released is closed when the connection to it is.
type idlePod struct {
	net.Conn
	ended, released chan struct{}
	once            sync.Once
	theirs          net.Conn
}

func newIdlePod(t *testing.T) *idlePod {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p := &idlePod{Conn: ours, theirs: theirs, ended: make(chan struct{}), released: make(chan struct{})}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		_, _ = io.Copy(io.Discard, theirs)
		close(p.ended)
	}()
	return p
}

func (p *idlePod) CloseWrite() error { return p.Conn.(*net.TCPConn).CloseWrite() }

func (p *idlePod) Close() error {
	p.once.Do(func() { close(p.released) })
	return p.Conn.Close()
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatalf("never: %s", what)
	}
}

// TestPortForwardEndsWithItsSession: a program that stays idle holds no connection for a
// client that is gone.
func TestPortForwardEndsWithItsSession(t *testing.T) {
	spdy := func(leave func(*Server, client)) func(*testing.T, *Server, *idlePod) {
		return func(t *testing.T, s *Server, pod *idlePod) {
			c := dialSPDY(t, portForwardURL(t, s), "portforward.k8s.io")
			data, _ := c.openPort(0)
			io.WriteString(data, "request")
			data.Close()
			await(t, "the pod sees the half-close", pod.ended)
			leave(s, c)
		}
	}
	for name, tt := range map[string]struct {
		idle time.Duration
		talk func(*testing.T, *Server, *idlePod)
	}{
		"client closes": {talk: spdy(func(_ *Server, c client) { c.conn.Close() })},
		"session idles": {talk: spdy(func(*Server, client) {}), idle: 300 * time.Millisecond},
		"server closes": {talk: spdy(func(s *Server, _ client) { s.Close(t.Context()) })},
		"client of a WebSocket closes": {talk: func(t *testing.T, s *Server, pod *idlePod) {
			ws, err := websocket.Dial(strings.Replace(portForwardURL(t, s), "http://", "ws://", 1), v4, "http://localhost")
			if err != nil {
				t.Fatal(err)
			}
			if err := websocket.Message.Send(ws, append([]byte{0}, "request"...)); err != nil {
				t.Fatal(err)
			}
			ws.Close()
			await(t, "the pod sees the end", pod.ended)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newIdlePod(t)
			s, err := New(Options{Address: "127.0.0.1:0", IdleTimeout: tt.idle, Log: slog.New(slog.DiscardHandler)},
				&fakes{dial: func(context.Context, int) (net.Conn, error) { return pod, nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close(t.Context())
			tt.talk(t, s, pod)
			await(t, "the connection to the pod is released", pod.released)
		})
	}
}

// TestPortForwardWaitsForAnAnswer: a client that has only ended its half gets its answer,
// however late.
func TestPortForwardWaitsForAnAnswer(t *testing.T) {
	pod := newIdlePod(t)
	s := newServer(t, &fakes{dial: func(context.Context, int) (net.Conn, error) { return pod, nil }})
	c := dialSPDY(t, portForwardURL(t, s), "portforward.k8s.io")
	data, errs := c.openPort(0)
	data.Close()
	await(t, "the pod sees the half-close", pod.ended)
	select {
	case <-pod.released:
		t.Fatal("the connection is released with the half-close")
	case <-time.After(time.Second):
	}
	io.WriteString(pod.theirs, "late answer")
	pod.theirs.Close()
	if got := readAll(t, data) + readAll(t, errs); got != "late answer" {
		t.Errorf("answer = %q", got)
	}
}
