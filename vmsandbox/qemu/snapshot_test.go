package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/qemu/qmp"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// TestSavingIsOver: QEMU says that a state is written before it lets the machine go on.
func TestSavingIsOver(t *testing.T) {
	answers := []string{
		`{"status": "active"}`, `{"status": "finish-migrate"}`,
		`{"status": "completed"}`, `{"status": "finish-migrate"}`,
		`{"status": "completed"}`, `{"status": "postmigrate"}`,
	}
	asked := make(chan []string, 1)
	c, err := qmp.Dial(t.Context(), fakeQEMU(t, answers, asked))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&machine{qmp: c}).over(t.Context(), false); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; len(got) != len(answers) {
		t.Errorf("the end of saving was asked for %d times of %d: %v", len(got), len(answers), got)
	}
}

// fakeQEMU gives these answers and then tells what it was asked.
func fakeQEMU(t *testing.T, answers []string, asked chan<- []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with its client
		var commands []string
		defer func() { asked <- commands }()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, `{"QMP": {}}`)
		lines := bufio.NewScanner(conn)
		for i := -1; lines.Scan(); i++ { // the first is the client's greeting
			var c struct {
				Execute string
				ID      int
			}
			if json.Unmarshal(lines.Bytes(), &c) != nil {
				return
			}
			answer := "{}"
			if i >= 0 {
				commands = append(commands, c.Execute)
				answer = answers[min(i, len(answers)-1)]
			}
			fmt.Fprintf(conn, `{"id": %d, "return": %s}`+"\n", c.ID, answer)
		}
	}()
	return path
}

// savings is how often a machine is saved, the fourth part of them not to the end.
const savings = 40

// saveAndGoOn saves a machine as a whole again and again, to the end and not, on a host that
// has other things to do. It goes on at once every time.
func saveAndGoOn(ctx context.Context, t *testing.T, m vmm.Machine, g *guest) {
	t.Helper()
	defer busy()()
	added := []int64{memoryStep, 2 * memoryStep} // by addMemory
	f, err := os.Create(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, wrong := range [][]int64{nil, added[:1], {added[0], 2 * added[1]}} {
		if err := m.(vmm.Snapshotter).Snapshot(ctx, f, wrong); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("saved as one with %v bytes more: %v", wrong, err)
		}
	}
	for i := range savings {
		within, cancel := ctx, func() {}
		if i%4 == 3 {
			within, cancel = context.WithTimeout(ctx, 20*time.Millisecond)
		}
		if err := errors.Join(f.Truncate(0), m.Pause(ctx)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		saving := m.(vmm.Snapshotter).Snapshot(within, f, added)
		if saving != nil && !errors.Is(saving, context.DeadlineExceeded) {
			t.Fatalf("saving %d: %v", i, saving)
		}
		cancel()
		if err := m.Resume(ctx); err != nil {
			t.Fatalf("after saving %d (%v): %v", i, saving, err)
		}
		for i, offset := range []int{0, page, 3 * page} {
			if got := g.do(t, "read ro0", offset, 4); got != content(i) {
				t.Fatalf("file %d of the disk begins with %s", i, got)
			}
		}
	}
}

// halfChanged: what a daemon has left that died in the middle of a change is taken out as
// anything else.
func halfChanged(ctx context.Context, t *testing.T, m *machine, layers []string) {
	t.Helper()
	begun := &loaded{}
	if _, err := m.build(ctx, "ro1", vmm.Disk{Files: layers, ReadOnly: true}, begun); err != nil {
		t.Fatal(err)
	}
	m.disks["ro1"] = begun
	if err := m.exchange(ctx, "ro2", placeholder("ro2")); err != nil {
		t.Fatal(err)
	}
	for _, slot := range []string{"ro1", "ro2"} {
		if err := m.ClearDisk(ctx, slot); err != nil {
			t.Fatalf("clear slot %s: %v", slot, err)
		}
		if err := m.SetDisk(ctx, slot, vmm.Disk{Files: layers[:1], ReadOnly: true}); err != nil {
			t.Fatalf("fill slot %s: %v", slot, err)
		}
	}
	if err := m.ClearDisk(ctx, "ro1"); err != nil {
		t.Fatal(err)
	}
}

// diesSaving plays a daemon that dies while it saves a machine.
func diesSaving(ctx context.Context, t *testing.T, m vmm.Machine) {
	t.Helper()
	if err := errors.Join(m.Pause(ctx), m.(*machine).takeOut(ctx)); err != nil {
		t.Fatal(err)
	}
}

// liesBack: the next one has put the disk of several files back.
func liesBack(ctx context.Context, t *testing.T, m vmm.Machine) {
	t.Helper()
	if err := m.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	g := talk(t, m, vmm.PortMonitor)
	defer g.conn.Close()
	if got := g.do(t, "read ro0", page, 4); got != content(1) {
		t.Errorf("the disk of several files that an earlier daemon has filled holds %s", got)
	}
}

// busy keeps all processors occupied until what it returns is called.
func busy() (stop func()) {
	var enough atomic.Bool
	var all sync.WaitGroup
	for range runtime.NumCPU() {
		all.Go(func() {
			for !enough.Load() {
			}
		})
	}
	return func() { enough.Store(true); all.Wait() }
}
