package template

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// reachable is a machine that has a port and nothing else.
type reachable struct {
	vmm.Machine
	socket string
}

func (r reachable) Socket(string) string { return r.socket }

// However many execs go on, the guest can be called.
func TestExecsLeaveStreams(t *testing.T) {
	m := reachable{socket: filepath.Join(t.TempDir(), "port")}
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	defer l.Close()
	all.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = mux.Serve(ctx, conn, mux.Options{}, func(_ string, c net.Conn) {
			defer c.Close()
			_, _ = c.Read(make([]byte, 1))
			<-ctx.Done() // it runs on
		})
	})
	vm, err := connect(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Session.Close()
	refused := make(chan struct{}, 300)
	for range 300 {
		all.Go(func() {
			_, _ = vm.Monitor.Exec(ctx, "c", monitor.ExecRequest{}, runtime.Streams{})
			refused <- struct{}{}
		})
	}
	select {
	case <-refused: // so that all streams are taken that are to be had
	case <-time.After(10 * time.Second):
		t.Fatal("300 execs have a stream each")
	}
	c, err := vm.Session.Open(t.Context(), agent.ServiceGuest)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
