package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/accel"
	"github.com/cricket-cri/cricket/vmsandbox/image"
	"github.com/cricket-cri/cricket/vmsandbox/node"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// NewVirtualHull is the hull of pods that are virtual machines: emulated ones, with the
// kernel that everyone has.
func NewVirtualHull(t testing.TB, change ...func(*node.Options)) *Hull {
	t.Helper()
	n := NewNode(t)
	found, err := image.Find(image.Wanted{
		QEMU: "qemu-system-x86_64", Dir: os.Getenv(guestEnv), Kernel: "debian", Cmdline: "mitigations=off",
	})
	if err != nil {
		t.Fatal(err)
	}
	// Unlike the node's directory, one whose name is short enough for sockets.
	state, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(state, 0o711); err != nil { // the hypervisors' users have to pass
		t.Fatal(err)
	}
	options := node.Options{
		Root: n.Paths.Root, State: state, Launcher: filepath.Join(os.Getenv(binEnv), "cricket-monitor"), Image: found,
		Shape:       vmm.Shape{Machine: "q35", VCPUs: 1, MemoryMiB: 512, MaxMemoryMiB: 1024},
		Accelerator: accel.TCG, Pool: 1, DiskMiB: 512, Rootfs: node.RootfsAuto,
		Monitor: n.Monitor, Layers: n.Layers, Network: n.Network, Log: n.Log,
	}
	for _, f := range change {
		f(&options)
	}
	h := &Hull{Name: "virtual", Node: n, virtual: options, Refused: map[string]bool{
		"host network": true, "host PID": true, "host IPC": true, "bidirectional propagation": true, "host socket": true,
		"mapped volume": true,
	}}
	var machines *node.Node
	h.Close = func(t testing.TB) {
		t.Helper()
		if machines == nil {
			return
		}
		if err := errors.Join(machines.Driver.Release(), machines.Close()); err != nil {
			t.Error(err)
		}
		machines = nil
	}
	h.Open = func(t testing.TB) sandbox.Driver {
		t.Helper()
		h.Close(t)
		machines, err = node.New(h.virtual)
		if err != nil {
			t.Fatal(err)
		}
		machines.Start(context.Background())
		return machines.Driver
	}
	h.Driver = h.Open(t)
	t.Cleanup(func() {
		h.Close(t)
		for _, dir := range []string{state + "/vm/machines", state + "/vm/pool", n.Paths.Root + "/vm/disks"} {
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("in %s is left %v, %v", dir, left, err)
			}
		}
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	return h
}
