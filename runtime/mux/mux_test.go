package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) net.Conn {
		f := os.NewFile(uintptr(fd), "socketpair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	return conn(fds[0]), conn(fds[1])
}

// serve runs the guest's side until the test ends.
func serve(t testing.TB, port net.Conn, o Options, accept func(service string, c net.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = Serve(ctx, port, o, accept) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func connect(t testing.TB, port net.Conn, o Options) *Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := Connect(ctx, port, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func pair(t testing.TB, o Options, accept func(service string, c net.Conn)) *Session {
	t.Helper()
	host, guest := socketpair(t)
	serve(t, guest, o, accept)
	return connect(t, host, o)
}

func open(t testing.TB, s *Session, service string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := s.Open(ctx, service)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// echo returns what it gets, and closes at its end.
func echo(_ string, c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c)
}

func closeWrite(t testing.TB, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + seed)
	}
	return b
}

func TestEcho(t *testing.T) {
	s := pair(t, Options{}, echo)
	var wg sync.WaitGroup
	for i, size := range []int{0, 1, 100, maxPayload - 1, maxPayload, maxPayload + 1, 1 << 20, 3 << 20} {
		wg.Go(func() {
			c := open(t, s, "echo")
			defer c.Close()
			want := pattern(size, i)
			go func() {
				_, _ = c.Write(want)
				_ = c.(*stream).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: got %d, %v", size, len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestRefuse(t *testing.T) {
	s := pair(t, Options{}, func(service string, c net.Conn) {
		switch service {
		case "closed":
			c.Close()
		case "refused":
			Refuse(c, errors.New("nobody\nlistens"))
		default:
			echo(service, c)
		}
	})
	for service, want := range map[string]string{"closed": "refused", "refused": "nobody?listens"} {
		_, err := s.Open(t.Context(), service)
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", service, err)
		}
		c, err := s.Begin(t.Context(), service)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(pattern(100<<10, 0)[:baseWindow])
		if _, err := c.Read(make([]byte, 1)); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, begun: %v", service, err)
		}
		c.Close()
	}
	for _, service := range []string{"", strings.Repeat("x", 65), "a b", "ä"} {
		if _, err := s.Open(t.Context(), service); !errdefs.IsInvalidArgument(err) {
			t.Errorf("service %q: %v", service, err)
		}
	}
	open(t, s, strings.Repeat("x", 64)).Close()
}

// TestUnread has one stream that nobody reads not delay another.
func TestUnread(t *testing.T) {
	s := pair(t, Options{}, func(service string, c net.Conn) {
		if service == "flood" {
			defer c.Close()
			for {
				if _, err := c.Write(pattern(100<<10, 0)); err != nil {
					return
				}
			}
		}
		if service == "deaf" {
			<-time.After(10 * time.Millisecond)
			_, _ = c.Read(make([]byte, 1)) // accepts
			return                         // and neither reads on nor closes
		}
		echo(service, c)
	})
	for range 3 {
		defer open(t, s, "flood").Close()
		deaf, err := s.Begin(t.Context(), "deaf")
		if err != nil {
			t.Fatal(err)
		}
		defer deaf.Close()
		go func() { _, _ = deaf.Write(make([]byte, 1<<20)) }()
	}
	c := open(t, s, "echo")
	defer c.Close()
	for range 100 {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	s.s.link.mu.Lock()
	defer s.s.link.mu.Unlock()
	for _, st := range s.s.streams {
		size := 0
		for _, p := range st.in.parts {
			size += cap(p)
		}
		if size > 3*defaultWindow {
			t.Errorf("%s holds %d bytes", st.service, size)
		}
	}
}

func TestDeadlines(t *testing.T) {
	s := pair(t, Options{}, func(_ string, c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	c := open(t, s, "deaf")
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	var timeout net.Error
	c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := c.Write(make([]byte, 1<<20))
	if !errors.As(err, &timeout) || !timeout.Timeout() || n < baseWindow || n > defaultWindow+outboxSize {
		t.Errorf("%d, %v", n, err)
	}
	c.SetDeadline(time.Time{})
	time.AfterFunc(20*time.Millisecond, func() { c.SetReadDeadline(time.Now()) })
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestCloseDelivers(t *testing.T) {
	s := pair(t, Options{}, func(_ string, c net.Conn) {
		_, _ = c.Write(pattern(200<<10, 1))
		c.Close()
	})
	c := open(t, s, "answer")
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, pattern(200<<10, 1)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestHalfClose(t *testing.T) {
	s := pair(t, Options{}, func(_ string, c net.Conn) {
		defer c.Close()
		b, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(append(b, "!"...))
		}
	})
	c := open(t, s, "x")
	defer c.Close()
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	closeWrite(t, c)
	if got, err := io.ReadAll(c); err != nil || string(got) != "abc!" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTooManyStreams(t *testing.T) {
	s := pair(t, Options{MaxStreams: 3}, echo)
	for range 3 {
		defer open(t, s, "x").Close()
	}
	if _, err := s.Open(t.Context(), "x"); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	host, guest := socketpair(t)
	serve(t, guest, Options{MaxStreams: 3}, echo)
	s = connect(t, host, Options{})
	for range 3 {
		defer open(t, s, "x").Close()
	}
	if _, err := s.Open(t.Context(), "x"); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

// TestBudget has the windows of all streams stay within the budget.
func TestBudget(t *testing.T) {
	s := pair(t, Options{Budget: 1 << 20}, func(_ string, c net.Conn) {
		defer c.Close()
		_, _ = c.Read(make([]byte, 1))
	})
	sum := func() (sum int) {
		s.s.link.mu.Lock()
		defer s.s.link.mu.Unlock()
		for _, st := range s.s.streams {
			sum += st.granted
		}
		if sum != s.s.granted {
			t.Errorf("windows are %d bytes, accounted for %d", sum, s.s.granted)
		}
		return sum
	}
	var conns []net.Conn
	for range 20 {
		conns = append(conns, open(t, s, "x"))
	}
	if n := sum(); n > 1<<20+16*baseWindow {
		t.Errorf("windows of %d bytes", n)
	}
	for _, c := range conns {
		c.Close()
	}
	open(t, s, "x").Close() // what was closed before has left
	if n := sum(); n > 2*defaultWindow {
		t.Errorf("windows of %d bytes are left", n)
	}
}

// TestChurn opens and closes streams in every way from both sides; nothing is left.
func TestChurn(t *testing.T) {
	s := pair(t, Options{}, func(service string, c net.Conn) {
		switch service[0] {
		case 'a':
			echo(service, c)
		case 'b':
			c.Close()
		case 'c':
			_, _ = c.Write(pattern(70<<10, 0))
			c.Close()
		case 'd':
			_, _ = c.Read(make([]byte, 10))
			c.Close()
		}
	})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 200 {
				c, err := s.Begin(context.Background(), string(rune('a'+(i+j)%4)))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = c.Write(pattern(1+(j*977)%(50<<10), 0))
				switch j % 3 {
				case 0:
					_, _ = c.Read(make([]byte, 100))
				case 1:
					_ = c.(*stream).CloseWrite()
					_, _ = io.Copy(io.Discard, c)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	deadline := time.Now().Add(linger + 5*time.Second)
	for {
		s.s.link.mu.Lock()
		streams, late, err := len(s.s.streams), len(s.s.late), s.s.err
		s.s.link.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if streams == 0 && late == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d streams, %d late", streams, late)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
