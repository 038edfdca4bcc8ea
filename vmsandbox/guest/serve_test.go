package guest

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/mux"
)

// joined returns the host's end of a stream that is joined with what dial returns, and what is
// closed when that is over.
func joined(t *testing.T, serve func(ctx context.Context, c net.Conn) error) (net.Conn, <-chan struct{}) {
	t.Helper()
	host, port := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = mux.Serve(ctx, port, mux.Options{}, func(_ string, c net.Conn) {
			defer close(over)
			defer c.Close()
			_ = serve(ctx, c)
		})
	})
	s, err := mux.Connect(t.Context(), host, mux.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); s.Close(); port.Close(); serving.Wait() })
	c, err := s.Begin(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	return c, over
}

func awaitEnd(t *testing.T, over <-chan struct{}) {
	t.Helper()
	select {
	case <-over:
	case <-time.After(parting + 5*time.Second):
		t.Error("it goes on though the host has hung up")
	}
}

// A forwarded connection ends when the host has closed it, at once or after half of it, and
// what was sent arrives, though the server neither answers nor closes.
func TestForwardEndsWithItsHost(t *testing.T) {
	for name, half := range map[string]bool{"at once": false, "half of it first": true} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			received := make(chan string, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { c.Close() })
				b, _ := io.ReadAll(c)
				received <- string(b)
			}()
			number := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
			c, over := joined(t, func(ctx context.Context, c net.Conn) error { return forward(ctx, number, c) })
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if half {
				if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got := <-received; got != "hello" {
					t.Errorf("received %q", got)
				}
				select {
				case <-over:
					t.Error("half a close is taken for a whole one")
				case <-time.After(50 * time.Millisecond):
				}
			}
			c.Close()
			awaitEnd(t, over)
			if half {
				return
			}
			if got := <-received; got != "hello" {
				t.Errorf("received %q", got)
			}
		})
	}
}

// A server that does not read what the host had sent does not keep the connection either.
func TestForwardToDeafServer(t *testing.T) {
	t.Parallel()
	to, deaf := net.Pipe()
	defer deaf.Close()
	c, over := joined(t, func(_ context.Context, c net.Conn) error { return join(c, to) })
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	awaitEnd(t, over)
}
