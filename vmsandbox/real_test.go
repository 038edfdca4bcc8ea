package vmsandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/disk"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
	"github.com/cricket-cri/cricket/vmsandbox/image"
	"github.com/cricket-cri/cricket/vmsandbox/qemu"
	"github.com/cricket-cri/cricket/vmsandbox/template"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// realMachine boots a machine as a node does, below a monitor of its own.
func realMachine(t *testing.T) *Machine {
	t.Helper()
	found, err := image.Find(image.Wanted{QEMU: "qemu-system-x86_64", Dir: guesttest.Image(t), Cmdline: "mitigations=off"})
	if err != nil {
		t.Fatal(err)
	}
	dir := monitortest.ShortDir(t)
	_, client := monitortest.Run(t)
	hypervisor, err := qemu.New(qemu.Options{
		Program: found.QEMU, State: filepath.Join(dir, "m"), Monitor: client,
	})
	if err != nil {
		t.Fatal(err)
	}
	disks, err := disk.Open(disk.Options{Dir: filepath.Join(t.TempDir(), "disks")})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := template.New(template.Options{
		Hypervisor: hypervisor, Dir: filepath.Join(dir, "p"), Unshared: true, Disks: disks, Shape: vmm.Shape{
			Machine: "q35", Accelerator: vmm.AccelTCG, VCPUs: 1, MemoryMiB: 512, MaxMemoryMiB: 1024,
			Kernel: found.Kernel, Initrd: found.Initrd, Cmdline: found.Cmdline,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	vm, err := pool.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pool.Remove(context.Background(), vm.Machine.ID()); err != nil {
			t.Error(err)
		}
		_ = vm.Close()
	})
	return &Machine{Machine: vm.Machine, Guest: vm.Guest, Monitor: vm.Monitor, Ping: vm.Ping, Lost: vm.Session.Done(), Why: vm.Session.Err, Mounted: vm.Mounted}
}

// blob makes an image with one program of that name.
func blob(t *testing.T, name string) string {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	content := exitProgram()
	err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}))
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := erofs.Write(t.Context(), f, &layer, erofs.Options{}); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestRealSlotIsUsedAgain: a slot shows the image that it has, whatever it had before.
func TestRealSlotIsUsedAgain(t *testing.T) {
	m := realMachine(t)
	for _, name := range []string{"one", "two", "three"} {
		const target = agent.DirDisks + "/ro0"
		if err := m.SetDisk(t.Context(), "ro0", vmm.Disk{Files: []string{blob(t, name)}, ReadOnly: true}); err != nil {
			t.Fatal(err)
		}
		if err := m.Guest.Mount(t.Context(), agent.Mount{Slot: "ro0", Target: target, Type: "erofs", Options: []string{"ro"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Guest.Get(t.Context(), target+"/"+name); err != nil {
			t.Errorf("image %s: %v", name, err)
		}
		for _, other := range []string{"one", "two"} {
			if _, err := m.Guest.Get(t.Context(), target+"/"+other); name != other && !errdefs.IsNotFound(err) {
				t.Errorf("image %s has the program of %s: %v", name, other, err)
			}
		}
		if err := Warm(t.Context(), m); err != nil {
			t.Errorf("a container beside image %s: %v", name, err)
		}
		r, beside, err := warmRequest(agent.Info{}, target, agent.DirDisks+"/rw0/"+warmID)
		if err != nil {
			t.Fatal(err)
		}
		r.Spec.Process.Args = []string{"/" + name}
		if err := m.Guest.Put(t.Context(), append(warmDirs(agent.DirDisks+"/rw0/"+warmID), beside...)); err != nil {
			t.Fatal(err)
		}
		if err := runOnce(t.Context(), m.Monitor, r); err != nil {
			t.Errorf("a container of image %s: %v", name, err)
		}
		if err := m.Guest.Unmount(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		if err := m.ClearDisk(t.Context(), "ro0"); err != nil {
			t.Fatal(err)
		}
	}
}
