package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestGuestSeesClose has the guest notice that a caller has gone.
func TestGuestSeesClose(t *testing.T) {
	seen := make(chan error, 1)
	s := pair(t, Options{}, func(_ string, c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		seen <- err
		c.Close()
	})
	open(t, s, "x").Close()
	if err := <-seen; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestHungUp: a caller that has gone is noticed without reading what it has left, and one
// that has only said all it had to say has not gone.
func TestHungUp(t *testing.T) {
	for name, leave := range map[string]func(*Session, net.Conn){
		"stream":  func(_ *Session, c net.Conn) { c.Close() },
		"session": func(s *Session, _ net.Conn) { s.Close() },
	} {
		accepted := make(chan *stream, 1)
		s := pair(t, Options{}, func(_ string, c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			accepted <- c.(*stream)
		})
		c := open(t, s, "x")
		if _, err := c.Write(pattern(1000, 0)); err != nil {
			t.Fatal(err)
		}
		closeWrite(t, c)
		st := <-accepted
		time.Sleep(50 * time.Millisecond)
		if st.HungUp() {
			t.Errorf("%s: half a close is taken for a whole one", name)
		}
		leave(s, c)
		for deadline := time.Now().Add(5 * time.Second); !st.HungUp(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: nobody has noticed", name)
			}
		}
	}
}

func TestSessionEnds(t *testing.T) {
	host, guest := socketpair(t)
	failed := make(chan error, 1)
	serve(t, guest, Options{}, func(_ string, c net.Conn) {
		_, _ = c.Write([]byte("x"))
		_, _ = c.Read(make([]byte, 1))
		_, err := c.Read(make([]byte, 1))
		failed <- err
	})
	s := connect(t, host, Options{})
	c := open(t, s, "x")
	if s.Err() != nil {
		t.Error(s.Err())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-s.Done()
	if err := s.Err(); !errors.Is(err, net.ErrClosed) || !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, errHostGone) {
		t.Error(err)
	}
	_, _ = io.ReadFull(c, make([]byte, 1))
	if _, err := c.Read(make([]byte, 1)); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if _, err := s.Open(t.Context(), "x"); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

func TestPing(t *testing.T) {
	release := make(chan struct{})
	host, port := socketpair(t)
	held := &held{Conn: port, release: release}
	serve(t, held, Options{}, echo)
	s := connect(t, host, Options{})
	for range 3 {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	held.on.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a guest that does not answer: %v", err)
	}
	// The next one waits for the answer that is under way, and many at once do.
	var together sync.WaitGroup
	for range 3 {
		together.Go(func() {
			if err := s.Ping(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	held.on.Store(false)
	close(release)
	together.Wait()
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	s.Close()
	if err := s.Ping(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("after the end: %v", err)
	}
}

// held is a port whose writes wait while it is on.
type held struct {
	net.Conn
	on      atomic.Bool
	release chan struct{}
}

func (h *held) Write(b []byte) (int, error) {
	if h.on.Load() {
		<-h.release
	}
	return h.Conn.Write(b)
}

// TestPingOfOldGuest has a guest answer that knows no pings.
func TestPingOfOldGuest(t *testing.T) {
	host, port := socketpair(t)
	go func() {
		f, err := newDecoder(port, true).next()
		if err != nil {
			return
		}
		hello := appendHello(nil, f.payload[len(helloMagic):len(helloMagic)+nonceSize])
		hello[len(hello)-2] = 1
		_, _ = port.Write(hello)
	}()
	if err := connect(t, host, Options{}).Ping(t.Context()); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

// TestConnectDeadline is a port where nobody answers.
func TestConnectDeadline(t *testing.T) {
	host, _ := socketpair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, host, Options{}); !errdefs.IsUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := host.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the port is still open: %v", err)
	}
}

func TestOpenDeadline(t *testing.T) {
	release := make(chan struct{})
	s := pair(t, Options{}, func(_ string, c net.Conn) { <-release; c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Open(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(release)
	if _, err := s.Open(t.Context(), "x"); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

// Streams that the host has closed are not among those it may have, however long the guest
// takes to notice; nor does the host take their number amiss.
func TestAbandonedStreams(t *testing.T) {
	over := make(chan struct{})
	s := pair(t, Options{MaxStreams: 3}, func(_ string, c net.Conn) {
		defer c.Close()
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			<-over
		}
	})
	defer close(over)
	for range maxLate + 100 {
		c := open(t, s, "x")
		if _, err := c.Write([]byte("xyz")); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	open(t, s, "x").Close()
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// What is left to be read of a stream that the host has closed is within the budget, and
// comes.
func TestAbandonedStreamIsRead(t *testing.T) {
	const size = 100 << 10
	took, goOn, read := make(chan *stream), make(chan struct{}), make(chan int)
	s := pair(t, Options{}, func(_ string, c net.Conn) {
		if n, err := io.ReadFull(c, make([]byte, 10)); err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		c.(*stream).AwaitHangUp()
		took <- c.(*stream)
		<-goOn
		b, _ := io.ReadAll(c)
		c.Close()
		read <- len(b)
	})
	c := open(t, s, "x")
	if _, err := c.Write(pattern(size, 0)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	st := <-took
	granted := func() int {
		st.s.link.mu.Lock()
		defer st.s.link.mu.Unlock()
		return st.s.granted
	}
	if n := granted(); n < size-10 || n > size { // it may have closed before anything was read
		t.Errorf("%d bytes of the budget are in use", n)
	}
	close(goOn)
	if n := <-read; n != size-10 {
		t.Errorf("%d bytes were read", n)
	}
	if n := granted(); n != 0 {
		t.Errorf("%d bytes of the budget are in use at the end", n)
	}
}

// Whatever clients keep open, there are streams for others.
func TestSpareStreams(t *testing.T) {
	s := pair(t, Options{MaxStreams: 16}, echo)
	for range 14 {
		c, err := s.OpenSpare(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := s.OpenSpare(t.Context(), "x"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more: %v", err)
	}
	open(t, s, "x").Close()
}
