package node

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/template"
)

// However many connections are forwarded, the guest can be called.
func TestForwardedPortsLeaveStreams(t *testing.T) {
	host, port := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() {
		_ = mux.Serve(ctx, port, mux.Options{}, func(_ string, c net.Conn) {
			defer c.Close()
			_, _ = io.Copy(io.Discard, c)
		})
	})
	s, err := mux.Connect(t.Context(), host, mux.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := machineOf(&template.VM{Session: s})
	for err == nil {
		_, err = m.Open(t.Context(), agent.ServiceTCP+"80")
	}
	if !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	c, err := s.Open(t.Context(), agent.ServiceGuest)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
