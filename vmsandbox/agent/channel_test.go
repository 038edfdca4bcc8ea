package agent_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// cut is a connection that is gone after so many bytes.
type cut struct {
	net.Conn
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	if c.left -= n; err == nil && n < len(p) {
		c.Conn.Close()
		err = net.ErrClosed
	}
	return n, err
}

// TestHostsCutOff has hosts of a real virtio-serial port vanish in the middle of what they
// send, with answers under way, and the next one connect at once.
func TestHostsCutOff(t *testing.T) {
	m := guesttest.Boot(t, guesttest.Config{})
	want := bytes.Repeat([]byte("0123456789abcde\n"), 60<<10/16)
	put := agent.File{Path: agent.DirVolumes + "/f", Mode: unix.S_IFREG | 0o600, Content: want}
	if err := m.Guest.Put(t.Context(), []agent.File{put}); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var took []time.Duration
	for round := range 100 {
		raw, err := net.Dial("unix", filepath.Join(m.Dir, vmm.PortMonitor))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		began := time.Now()
		s, err := mux.Connect(ctx, &cut{raw, 40<<10 + random.IntN(300<<10)}, mux.Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		took = append(took, time.Since(began))
		c := agent.NewClient(s.Begin)
		file, err := c.Get(ctx, put.Path)
		if err != nil || !bytes.Equal(file.Content, want) {
			t.Fatalf("round %d: %d bytes, %v", round, len(file.Content), err)
		}
		for range 4 {
			go func() {
				for c.Put(ctx, []agent.File{put}) == nil {
					_, _ = c.Get(ctx, put.Path)
				}
			}()
		}
		<-s.Done()
		cancel()
	}
	slices.Sort(took)
	t.Logf("greeting after a cut: p50 %v, p90 %v, most %v", took[50], took[90], took[99])
}

// BenchmarkGuest measures calls over a real port.
func BenchmarkGuest(b *testing.B) {
	m := guesttest.Boot(b, guesttest.Config{})
	for name, open := range map[string]func(context.Context, string) (net.Conn, error){"open": m.Session.Open, "begin": m.Session.Begin} {
		c := agent.NewClient(open)
		b.Run("hello/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := c.Hello(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	file := agent.File{Path: agent.DirVolumes + "/f", Mode: unix.S_IFREG | 0o600, Content: make([]byte, 1<<20)}
	b.Run("put", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for b.Loop() {
			if err := m.Guest.Put(b.Context(), []agent.File{file}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		b.SetBytes(1 << 20)
		for b.Loop() {
			if _, err := m.Guest.Get(b.Context(), file.Path); err != nil {
				b.Fatal(err)
			}
		}
	})
}
