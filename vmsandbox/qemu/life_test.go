package qemu

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// A machine boots, is saved, and clones of it go on from there, whoever started them.
func TestTemplateAndClones(t *testing.T) {
	kernel, initrd := image(t)
	state, ctx := shortDir(t), background(t)
	h := confinedHypervisor(t, state)
	memory, device := template(t, h, shape(kernel, initrd))
	c := vmm.Config{ID: "clone-1", Shape: shape(kernel, initrd), State: device, Memory: vmm.Memory{File: memory}, Volumes: shortDir(t)}
	layers := disks(t, 3)
	c.Disks = map[string]vmm.Disk{"ro0": {Files: layers[:1], ReadOnly: true}}
	m, err := h.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	other := c
	other.ID, other.Disks, other.Volumes = "clone-2", nil, ""
	second, err := h.Start(ctx, other)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, m := range []vmm.Machine{m, second} {
		if err := m.Resume(ctx); err != nil {
			t.Fatal(err)
		}
	}
	g := talk(t, m, vmm.PortDaemon)
	t.Logf("resumed to first answer: %v", time.Since(began))
	if second.Pid() == m.Pid() || talk(t, second, vmm.PortMonitor).do(t, "ping", "x") != "pong x" {
		t.Error("the second clone does not live for itself")
	}
	if got := g.do(t, "read ro0 0 4"); got != content(0) {
		t.Errorf("the disk of the start holds %s", got)
	}
	checkConfined(t, m, c.Volumes)
	checkConfined(t, second, "")
	checkSilent(ctx, t, m)
	shareVolumes(t, g, c.Volumes)
	exchangeDisks(ctx, t, m, g, layers)
	fillHost(ctx, t, m, g)
	addMemory(ctx, t, m, g, 0)
	saveAndGoOn(ctx, t, m, g)
	halfChanged(ctx, t, m.(*machine), layers)
	mapped := mapFiles(ctx, t, m, g)
	addMemory(ctx, t, m, g, 2)
	liveAlone(ctx, t, h, c)
	attachAgain(ctx, t, h, m, layers, mapped)
	panics(t, second)
	remove(ctx, t, h, state)
}

// template boots a machine and returns its sealed memory and its state.
func template(t testing.TB, h vmm.Hypervisor, s vmm.Shape) (memory, device *os.File) {
	t.Helper()
	ctx := background(t)
	shared := memfd(t, memoryMiB<<20)
	began := time.Now()
	m, err := h.Start(ctx, vmm.Config{ID: "template", Shape: s, Memory: vmm.Memory{File: shared, Shared: true}, Deadline: patience})
	if err != nil {
		t.Fatal(err)
	}
	g := talk(t, m, vmm.PortDaemon)
	t.Logf("cold boot: %v", time.Since(began))
	g.conn.Close()
	if err := m.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	device = memfd(t, 0)
	began = time.Now()
	if err := m.Save(ctx, device); err != nil {
		t.Fatal(err)
	}
	st, err := device.Stat()
	if err != nil || st.Size() == 0 || st.Size() > 4<<20 {
		t.Fatalf("the state has %d bytes, %v", st.Size(), err)
	}
	t.Logf("saved %d KiB in %v", st.Size()>>10, time.Since(began))
	done := m.Done()
	if err := h.Remove(ctx, m.ID()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("Done stays open after Remove")
	}
	_ = m.Close()
	return seal(t, shared), device
}

// page is what a guest reads at least.
const page = 4096

// disks writes files of a few pages that differ in their content.
func disks(t testing.TB, n int) []string {
	t.Helper()
	dir, paths := t.TempDir(), []string(nil)
	for i := range n {
		b, err := hex.DecodeString(content(i))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, content(i))
		if err := os.WriteFile(path, append(b, make([]byte, page*(i+1)-len(b))...), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// content is what a disk begins with, four bytes in hexadecimal.
func content(i int) string { return hex.EncodeToString([]byte{0xc0, 0xff, 0xee, byte(i)}) }

func exchangeDisks(ctx context.Context, t *testing.T, m vmm.Machine, g *guest, layers []string) {
	t.Helper()
	if err := m.SetDisk(ctx, "ro0", vmm.Disk{Files: layers[1:2], ReadOnly: true}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a slot in use was filled: %v", err)
	}
	if err := m.ClearDisk(ctx, "ro0"); err != nil {
		t.Fatal(err)
	}
	if got := g.do(t, "read ro0 0 4"); got != "00000000" {
		t.Errorf("the empty slot holds %s", got)
	}
	began := time.Now()
	// One disk of three files: of one page, of two, of three.
	if err := m.SetDisk(ctx, "ro0", vmm.Disk{Files: layers, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	t.Logf("a disk of three files: %v", time.Since(began))
	for i, offset := range []int{0, page, 3 * page} {
		if got := g.do(t, "read ro0", offset, 4); got != content(i) {
			t.Errorf("file %d of the disk begins with %s", i, got)
		}
	}
	if got := g.try("read ro0", 1<<20, 4); !strings.HasPrefix(got, "error") {
		t.Errorf("beyond the disk's end lies %s", got)
	}
	path := filepath.Join(t.TempDir(), "rw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.SetDisk(ctx, "rw1", vmm.Disk{Files: []string{path}, Volatile: true}); err != nil {
		t.Fatal(err)
	}
	g.do(t, "write rw1 4096 abcdef")
	b, err := os.ReadFile(path)
	if err != nil || hex.EncodeToString(b[4096:4099]) != "abcdef" {
		t.Errorf("what the guest wrote is not in the file: %v", err)
	}
	if got := g.try("write ro0 0 ffff"); !strings.HasPrefix(got, "error") {
		t.Errorf("a read-only disk was written to: %s", got)
	}
	for _, bad := range []vmm.Disk{{}, {Files: layers}, {Files: layers[:1], Direct: true}, {Files: []string{"/nonexistent"}, ReadOnly: true}, {Files: []string{"/dev/null"}, ReadOnly: true}} {
		if err := m.SetDisk(ctx, "ro2", bad); err == nil {
			t.Errorf("disk %+v was accepted", bad)
		}
	}
	if err := m.SetDisk(ctx, "ro2", vmm.Disk{Files: layers[:1], ReadOnly: true}); err != nil {
		t.Errorf("after a failure the slot cannot be filled: %v", err)
	}
}

// attachAgain plays a new daemon: it knows nothing but the machine's directory.
func attachAgain(ctx context.Context, t *testing.T, h vmm.Hypervisor, m vmm.Machine, layers, mapped []string) {
	t.Helper()
	diesSaving(ctx, t, m)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Pause(ctx); err == nil {
		t.Error("a closed machine obeys")
	}
	again, err := h.Attach(ctx, m.ID())
	if err != nil {
		t.Fatal(err)
	}
	if again.Pid() != m.Pid() || again.Dir() != m.Dir() {
		t.Error("another machine was found")
	}
	liesBack(ctx, t, again)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err = h.Attach(ctx, m.ID()); err != nil { // while the guest uses its disks
		t.Fatal(err)
	}
	liesBack(ctx, t, again)
	if err := again.SetDisk(ctx, "ro0", vmm.Disk{Files: layers[:1], ReadOnly: true}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a slot that an earlier daemon filled is taken for empty: %v", err)
	}
	if buses, err := again.(vmm.Mapper).Map(ctx, mapped...); err != nil || !slices.Equal(buses, []int{1, 2, 3, 4}) {
		t.Errorf("files that an earlier daemon mapped are on buses %v, %v", buses, err)
	}
	g := talk(t, again, vmm.PortMonitor)
	for _, slot := range []string{"ro0", "ro2", "rw1"} {
		if err := again.ClearDisk(ctx, slot); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.SetDisk(ctx, "ro0", vmm.Disk{Files: layers[1:2], ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if got := g.do(t, "read ro0 0 4"); got != content(1) {
		t.Errorf("the slot holds %s", got)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func remove(ctx context.Context, t *testing.T, h vmm.Hypervisor, state string) {
	t.Helper()
	ids, err := h.List(ctx)
	if err != nil || len(ids) != 2 {
		t.Fatalf("machines %v, %v", ids, err)
	}
	for _, id := range append(ids, ids[0]) { // twice
		if err := h.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Attach(ctx, id); !errdefs.IsNotFound(err) {
			t.Errorf("attach to a removed machine: %v", err)
		}
	}
	left, err := os.ReadDir(state)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// mapFiles shows the guest as many files as it can have as memory, and returns them.
func mapFiles(ctx context.Context, t *testing.T, m vmm.Machine, g *guest) []string {
	t.Helper()
	files := make([]string, rootPorts+1)
	for i := range files {
		files[i] = filepath.Join(t.TempDir(), "blob")
		if err := os.WriteFile(files[i], append([]byte{0xda, 0x0a, 0xda, byte(i)}, make([]byte, vmm.MapStep-4)...), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	mapper := m.(vmm.Mapper)
	began := time.Now()
	first, err := mapper.Map(ctx, files[0])
	if err != nil || len(first) != 1 {
		t.Fatal(first, err)
	}
	begins(t, m, g, first[0], "da0ada00")
	t.Logf("a file is mapped after %v", time.Since(began))
	if again, err := mapper.Map(ctx, files[0]); err != nil || !slices.Equal(again, first) {
		t.Errorf("the file again is on buses %v, %v", again, err)
	}
	if more, err := mapper.Map(ctx, files[1:]...); !errdefs.IsResourceExhausted(err) {
		t.Errorf("more files than ports are on buses %v, %v", more, err)
	}
	began = time.Now()
	more, err := mapper.Map(ctx, files[:rootPorts]...)
	if err != nil || len(more) != rootPorts || more[0] != first[0] {
		t.Fatal(more, err)
	}
	for i, bus := range more {
		begins(t, m, g, bus, fmt.Sprintf("da0ada%02x", i))
	}
	t.Logf("%d more are mapped after %v", rootPorts-1, time.Since(began))
	if _, err := mapper.Map(ctx, os.Args[0]); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a file of any size: %v", err)
	}
	return files[:rootPorts]
}

// begins waits until the guest sees a mapped file, which begins with these bytes.
func begins(t *testing.T, m vmm.Machine, g *guest, bus int, want string) {
	t.Helper()
	began := time.Now()
	got := g.try("pmem", bus)
	for strings.HasPrefix(got, "error") && time.Since(began) < patience/9 {
		time.Sleep(5 * time.Millisecond) // plugging in is the guest's own time
		got = g.try("pmem", bus)
	}
	if got != want {
		t.Errorf("the mapped file begins with %s, not %s; %s", got, want, m.(vmm.Witness).LastWords())
	}
}

// liveAlone starts a clone that shares no memory with others: it has a copy of its own.
func liveAlone(ctx context.Context, t *testing.T, h vmm.Hypervisor, c vmm.Config) {
	t.Helper()
	own := memfd(t, memoryMiB<<20)
	copyMemory(t, own, c.Memory.File)
	c.ID, c.Memory, c.Disks, c.Volumes = "alone", vmm.Memory{File: own, Shared: true}, nil, ""
	m, err := h.Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	talk(t, m, vmm.PortDaemon)
	if err := h.Remove(ctx, "alone"); err != nil {
		t.Fatal(err)
	}
	_ = m.Close()
}

// addMemory plugs in memory, beside so many pieces, until the machine takes no more.
func addMemory(ctx context.Context, t *testing.T, m vmm.Machine, g *guest, pieces int) {
	t.Helper()
	before := kib(t, g.do(t, "online"))
	// A daemon that died between the two has left an object without a device.
	left := map[string]any{"qom-type": "memory-backend-ram", "id": "more" + strconv.Itoa(pieces), "size": memoryStep}
	if err := m.(*machine).qmp.Execute(ctx, "object-add", left, nil); err != nil {
		t.Fatal(err)
	}
	for _, bytes := range []int64{memoryStep, 2 * memoryStep} {
		began := time.Now()
		if err := m.AddMemory(ctx, bytes); err != nil {
			t.Fatal(err)
		}
		want := before + bytes>>10*9/10 // the kernel takes some for itself
		for kib(t, g.do(t, "online")) < want {
			if time.Since(began) > patience {
				t.Fatalf("the guest sees %s of %d bytes more", g.do(t, "online"), bytes)
			}
			time.Sleep(5 * time.Millisecond) // plugging in is the guest's own time
		}
		t.Logf("%d MiB more are in use after %v", bytes>>20, time.Since(began))
		before = kib(t, g.do(t, "online"))
	}
	if err := m.AddMemory(ctx, memoryStep/2); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half a step: %v", err)
	}
	if err := m.AddMemory(ctx, 1<<30); !errdefs.IsResourceExhausted(err) {
		t.Errorf("more than the machine takes: %v", err)
	}
}

// kib reads "MemTotal: 123 kB".
func kib(t *testing.T, line string) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &n); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return n
}

// panics lets the kernel of a machine panic: that ends the machine, and says why.
func panics(t *testing.T, m vmm.Machine) {
	t.Helper()
	g := talk(t, m, vmm.PortDaemon)
	began := time.Now()
	fmt.Fprintln(g.conn, "panic")
	select {
	case <-m.Done():
		t.Logf("after a panic the machine ended within %v", time.Since(began))
	case <-time.After(patience):
		t.Fatal("a guest that has panicked goes on")
	}
	if words := m.(vmm.Witness).LastWords(); !strings.Contains(words, "panic") {
		t.Errorf("the guest's last words are %q", words)
	}
	if err := m.Resume(context.Background()); !errdefs.IsUnavailable(err) {
		t.Errorf("a dead machine obeys: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// checkSilent: a clone has its guest announce no address, which costs an emulated guest tens
// of milliseconds, in the middle of its pod's start.
func checkSilent(ctx context.Context, t *testing.T, m vmm.Machine) {
	t.Helper()
	var p map[string]any
	if err := m.(*machine).qmp.Execute(ctx, "query-migrate-parameters", nil, &p); err != nil || p["announce-rounds"] != 0.0 {
		t.Errorf("address is announced %v times, %v", p["announce-rounds"], err)
	}
}
