package main

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cricket-cri/cricket/cri"
)

// TestStopDoesNotWaitForSilentClients: a connection that says nothing is no call.
func TestStopDoesNotWaitForSilentClients(t *testing.T) {
	i := cri.NewInterceptor(slog.New(slog.DiscardHandler), nil)
	g := grpc.NewServer(i.Options()...)
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

// TestMetricsForOtherMachines: an address that others can reach is taken, with a warning.
func TestMetricsForOtherMachines(t *testing.T) {
	for address, warned := range map[string]bool{
		"127.0.0.1:0": false, "localhost:0": false, ":0": true, "0.0.0.0:0": true,
	} {
		var log strings.Builder
		d := &daemon{metrics: cri.NewMetrics("test"), log: slog.New(slog.NewTextHandler(&log, nil))}
		stop, err := d.serveMetrics(address)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if got := strings.Contains(log.String(), "level=WARN msg=\"metrics are served to other machines"); got != warned {
			t.Errorf("%s: a warning: %t, want %t\n%s", address, got, warned, &log)
		}
	}
}
