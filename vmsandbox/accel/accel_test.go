package accel

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// node is what a proof needs: a program that passes for QEMU, and files to boot.
type node struct {
	options Options
	monitor *direct
	state   string
	starts  string
	program string
}

func newNode(t *testing.T, how string) *node {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{monitor: newDirect(t), starts: t.TempDir(), state: monitortest.ShortDir(t)}
	dir := t.TempDir()
	n.program = filepath.Join(dir, "qemu")
	write(t, n.program, fmt.Sprintf("#!/bin/sh\n%s='%s' CRICKET_TEST_STARTS='%s' exec '%s' \"$@\"\n", manner, how, n.starts, self))
	write(t, filepath.Join(dir, "kernel"), "kernel")
	n.options = Options{
		Shape:    vmm.Shape{Machine: "q35", VCPUs: 1, MemoryMiB: 64, Kernel: filepath.Join(dir, "kernel")},
		Cache:    filepath.Join(dir, "cache", "accel.json"),
		Deadline: 1500 * time.Millisecond,
		Device:   "/dev/null", // can be opened, as a /dev/kvm of no use can
	}
	n.restart(t)
	return n
}

// restart makes a hypervisor that knows nothing yet, as a new daemon does.
func (n *node) restart(t *testing.T) {
	t.Helper()
	var err error
	if n.options.Hypervisor, err = qemu.New(qemu.Options{Program: n.program, State: n.state, Monitor: n.monitor}); err != nil {
		t.Fatal(err)
	}
}

// write writes a program. No other test may fork meanwhile: its child would hold the file open
// until it executes something, and what is open for writing cannot be executed (ETXTBSY).
func write(t *testing.T, path, content string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// started counts the machines that were started.
func (n *node) started(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir(n.starts)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Whatever QEMU does, the verdict is there soon and nothing is left of the proof.
func TestVerdicts(t *testing.T) {
	for how, want := range map[string]struct{ accelerator, reason string }{
		"boots":                {KVM, "has answered"},
		"boots late":           {TCG, "within 1.5s"},
		"hangs":                {TCG, "within 1.5s"},
		"hangs at once":        {TCG, "within 1.5s"},
		"crashes":              {TCG, "Assertion failed"},
		"crashes when it runs": {TCG, "KVM internal error"},
		"prints garbage":       {TCG, ""},
		"garbles QMP":          {TCG, ""},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, how)
			began := time.Now()
			v, err := Choose(context.Background(), Auto, false, n.options)
			if err != nil {
				t.Fatal(err)
			}
			if v.Accelerator != want.accelerator || !strings.Contains(v.Reason, want.reason) || v.Reason == "" || !v.Proven || v.Remembered {
				t.Errorf("verdict %+v", v)
			}
			if took := time.Since(began); took > n.options.Deadline+5*time.Second {
				t.Errorf("the verdict took %v", took)
			}
			t.Log(v.Reason)
			left, err := os.ReadDir(n.state)
			if err != nil || len(left) != 0 || len(n.monitor.processes) != 0 {
				t.Errorf("left behind: %v, %v, %v", left, n.monitor.processes, err)
			}
			_, err = Choose(context.Background(), KVM, false, n.options)
			if (err == nil) != (want.accelerator == KVM) || err != nil && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("where KVM is demanded: %v", err)
			}
			if n.started(t) != 1 {
				t.Error("the verdict was not remembered")
			}
		})
	}
}

// A verdict holds until something that it depends on changes, or somebody asks again.
func TestVerdictIsRemembered(t *testing.T) {
	n := newNode(t, "boots")
	ask := func(why string, anew bool, starts int) {
		t.Helper()
		before := n.started(t)
		v, err := Choose(context.Background(), Auto, anew, n.options)
		if err != nil || v.Accelerator != KVM {
			t.Fatalf("%s: %+v, %v", why, v, err)
		}
		if got := n.started(t) - before; got != starts || v.Remembered != (starts == 0) {
			t.Errorf("%s: %d guests were booted, not %d; remembered: %v", why, got, starts, v.Remembered)
		}
	}
	known := func(want bool) {
		t.Helper()
		if v, ok, err := Recall(context.Background(), n.options); err != nil || ok != want || ok && v.Accelerator != KVM {
			t.Errorf("recalled %+v (%v), %v", v, ok, err)
		}
	}
	known(false)
	ask("first", false, 1)
	known(true)
	ask("again", false, 0)
	n.restart(t)
	ask("after a restart", false, 0)
	ask("on demand", true, 1)
	ask("after the demand", false, 0)
	write(t, n.options.Shape.Kernel, "another kernel")
	known(false)
	ask("another guest", false, 1)
	n.options.Shape.CPU = "max"
	ask("another model", false, 1)
	script, err := os.ReadFile(n.program)
	if err != nil {
		t.Fatal(err)
	}
	write(t, n.program, strings.Replace(string(script), "exec", "PRETEND=9 exec", 1))
	ask("a program of the same version", false, 0)
	write(t, n.options.Cache, `{"key": {}, "verdict": {"accelerator": "kvm"}}`)
	ask("foreign cache", false, 1)
	write(t, n.options.Cache, `{"key"`)
	ask("torn cache", false, 1)
}

// Every part of the key counts.
func TestKey(t *testing.T) {
	n := newNode(t, "boots")
	k, err := surroundings(context.Background(), n.options)
	if err != nil {
		t.Fatal(err)
	}
	if k.Host == "" || k.CPU == "" || !strings.Contains(k.Hypervisor, "7.2.99") || k.Guest == " " {
		t.Errorf("key %+v", k)
	}
	for name, change := range map[string]func(k *key){
		"kernel": func(k *key) { k.Host += "1" }, "QEMU": func(k *key) { k.Hypervisor += "1" },
		"CPU": func(k *key) { k.CPU += "1" }, "microcode": func(k *key) { k.Microcode += "1" },
	} {
		if err := remember(n.options.Cache, k, Verdict{Accelerator: KVM}); err != nil {
			t.Fatal(err)
		}
		other := k
		change(&other)
		if _, ok := recall(n.options.Cache, other); ok {
			t.Errorf("a change of the %s does not count", name)
		}
		if _, ok := recall(n.options.Cache, k); !ok {
			t.Error("the verdict is not remembered")
		}
	}
	model, microcode := processor("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel name\t: X 3\nmicrocode\t: 0x69\n\nmodel name: other\n")
	if model != "GenuineIntel 6 X 3" || microcode != "0x69" {
		t.Errorf("processor %q, microcode %q", model, microcode)
	}
}

func TestNothingIsFoundOut(t *testing.T) {
	n := newNode(t, "hangs")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := Choose(ctx, Auto, false, n.options); err == nil {
		t.Error("who gave up got a verdict")
	}
	o := n.options
	o.Shape.Kernel = "/nonexistent"
	if _, err := Choose(context.Background(), Auto, false, o); !errdefs.IsNotFound(err) {
		t.Errorf("without a kernel: %v", err)
	}
	if _, err := Choose(context.Background(), "xen", false, n.options); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown mode: %v", err)
	}
	if v, err := Choose(context.Background(), TCG, false, n.options); err != nil || v.Accelerator != TCG {
		t.Errorf("emulation: %+v, %v", v, err)
	}
	if _, err := os.Stat(n.options.Cache); err == nil {
		t.Error("what was not found out is remembered")
	}
	o = n.options
	o.Device = "/nonexistent"
	v, err := Choose(context.Background(), Auto, false, o)
	if err != nil || v.Accelerator != TCG || v.Proven {
		t.Errorf("without a device: %+v, %v", v, err)
	}
	if _, err := os.Stat(n.options.Cache); err == nil {
		t.Error("a missing device is remembered")
	}
}
