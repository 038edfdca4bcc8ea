package mux

import (
	"context"
	"errors"
	"io"
	"net"
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
