package template

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/disk"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
	"github.com/cricket-cri/cricket/vmsandbox/network"
	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

const qemuProgram = "/usr/bin/qemu-system-x86_64"

// kernelFor finds the guest's kernel. CRICKET_KERNEL chooses one of the manifest.
func kernelFor(t testing.TB) vmm.Shape {
	t.Helper()
	image := guesttest.Image(t)
	text, err := os.ReadFile(filepath.Join(image, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Kernels []struct{ Name, Kernel, Initrd, Cmdline string }
	}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	name := os.Getenv("CRICKET_KERNEL")
	if name == "" {
		name = "debian"
	}
	for _, k := range m.Kernels {
		if k.Name == name {
			return vmm.Shape{
				Machine: "q35", Accelerator: vmm.AccelTCG, VCPUs: 1, MemoryMiB: 512, MaxMemoryMiB: 4096,
				Kernel: filepath.Join(image, k.Kernel), Initrd: filepath.Join(image, k.Initrd), Cmdline: k.Cmdline + " mitigations=off",
			}
		}
	}
	t.Fatalf("no kernel %q", name)
	return vmm.Shape{}
}

// node starts a monitor of its own and returns what a daemon would make of it.
func node(t testing.TB, o Options) (Options, *disk.Store) {
	t.Helper()
	dir := monitortest.ShortDir(t)
	launcher, client := monitortest.Run(t)
	o.Shape = kernelFor(t)
	q := qemu.Options{
		Program: qemuProgram, State: filepath.Join(dir, "m"), Monitor: client,
		Confine: &qemu.Confine{
			Launcher: []string{launcher, "confine"}, FirstUser: qemu.DefaultFirstUser, Users: qemu.DefaultUsers, Files: qemu.DefaultFiles(qemuProgram),
		},
	}
	if other := os.Getenv("CRICKET_QEMU"); other != "" { // to measure with other arguments
		q.Program, q.Confine = other, nil
	}
	var err error
	o.Hypervisor, err = qemu.New(q)
	if err != nil {
		t.Fatal(err)
	}
	store, err := disk.Open(disk.Options{Dir: filepath.Join(t.TempDir(), "disks")})
	if err != nil {
		t.Fatal(err)
	}
	o.Dir, o.Disks = filepath.Join(dir, "p"), store
	o.Tap, o.Release = network.MakeTap, network.Remove
	o.Log = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return o, store
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func parkedAll(t testing.TB, p *Pool, n int) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		p.mu.Lock()
		parked, making := len(p.parked), len(p.making)
		p.mu.Unlock()
		if parked == n && making == 0 {
			return
		}
	}
	t.Fatalf("stock is not full: %+v", p.Status())
}

// TestRealMachines makes a template, parks two clones, claims them and clones more, with
// QEMU as it is on a node, and leaves nothing behind.
func TestRealMachines(t *testing.T) {
	o, disks := node(t, Options{Size: 2, Warm: warmth(t)})
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	parkedAll(t, p, 2)
	t.Logf("status: %s", p.Status().Reason)
	var claimed []*VM
	kinds := map[Origin]bool{}
	for range 3 {
		began := time.Now()
		vm, err := p.Claim(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s machine after %v", vm.Origin, time.Since(began))
		claimed = append(claimed, vm)
		kinds[vm.Origin] = true
	}
	if !kinds[Parked] || kinds[Booted] {
		t.Errorf("origins = %v", kinds)
	}
	for i, vm := range claimed {
		useMachine(t, vm, i)
	}
	claimed[0] = attachLike(t, o, claimed[0])
	for _, vm := range claimed {
		checkOwn(t, vm)
		if err := p.Remove(t.Context(), vm.Machine.ID()); err != nil {
			t.Error(err)
		}
		_ = vm.Close()
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	left, _ := o.Hypervisor.List(t.Context())
	entries, _ := os.ReadDir(o.Dir)
	owners, _ := disks.Owners()
	if len(left)+len(entries)+len(owners) != 0 {
		t.Errorf("left: %v, %v, %v", left, entries, owners)
	}
}

// attachLike finds a machine again as the next daemon would.
func attachLike(t *testing.T, o Options, vm *VM) *VM {
	t.Helper()
	if err := vm.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	again, err := next.Attach(t.Context(), vm.Machine.ID())
	if err != nil {
		t.Fatal(err)
	}
	if again.NetNS != vm.NetNS || again.Volumes != vm.Volumes || again.Info.Kernel != vm.Info.Kernel || again.Machine.Pid() != vm.Machine.Pid() {
		t.Errorf("attached %+v, was %+v", again, vm)
	}
	return again
}

// useMachine does what a pod would: a name, an address, a file on the disk.
func useMachine(t *testing.T, vm *VM, i int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := vm.Guest.Identify(ctx, agent.Identity{
		UnixNanos: time.Now().UnixNano(), Entropy: make([]byte, 32), MachineID: fmt.Sprintf("%032x", i), Hostname: fmt.Sprintf("vm%d", i),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := agent.File{Path: agent.DirDisks + "/rw0/name", Mode: syscall.S_IFREG | 0o600, Content: []byte(vm.Machine.ID())}
	if err := vm.Guest.Put(ctx, []agent.File{file}); err != nil {
		t.Fatal(err)
	}
	if err := vm.Guest.Sync(ctx, true); err != nil {
		t.Fatal(err)
	}
	if info, err := vm.Monitor.Hello(ctx); err != nil || info.Pid != 1 {
		t.Errorf("monitor: %+v, %v", info, err)
	}
}

// checkOwn expects that every machine still has what was written to it alone.
func checkOwn(t *testing.T, vm *VM) {
	t.Helper()
	f, err := vm.Guest.Get(t.Context(), agent.DirDisks+"/rw0/name")
	if err != nil || string(f.Content) != vm.Machine.ID() {
		t.Errorf("the disk of %s holds %q, %v", vm.Machine.ID(), f.Content, err)
	}
	if _, err := os.Stat(vm.NetNS); err != nil {
		t.Error(err)
	}
}

// warmth is what nodes have, done as often as CRICKET_LIVES says.
func warmth(t testing.TB) func(context.Context, *VM) error {
	l, err := NewLife(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	lives := 1
	if s := os.Getenv("CRICKET_LIVES"); s != "" {
		lives, _ = strconv.Atoi(s)
	}
	return func(ctx context.Context, vm *VM) error {
		for range lives {
			if err := l.Live(ctx, vm); err != nil {
				return err
			}
		}
		return nil
	}
}
