package main

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cricket-cri/cricket/cri"
)

// TestStopDoesNotWaitForSilentClients: a connection that says nothing is no call.
func TestStopDoesNotWaitForSilentClients(t *testing.T) {
	i := cri.NewInterceptor(slog.New(slog.DiscardHandler), nil)
	g := grpc.NewServer(grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream))
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != nil { // it is being served
		t.Fatal(err)
	}
	began := time.Now()
	stopServing(g, i)
	if took := time.Since(began); took > 10*partTime {
		t.Errorf("stopping took %s", took)
	}
	c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
