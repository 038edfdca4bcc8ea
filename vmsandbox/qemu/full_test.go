package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// fillHost fills the file system that a disk lies on: the guest is told of an error, and
// lives. It can write again when there is room.
func fillHost(ctx context.Context, t *testing.T, m vmm.Machine, g *guest) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	disk, other := filepath.Join(dir, "rw"), filepath.Join(dir, "other")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, make([]byte, 128<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the host's file system is not full: %v", err)
	}
	if err := m.SetDisk(ctx, "rw2", vmm.Disk{Files: []string{disk}}); err != nil {
		t.Fatal(err)
	}
	answer := g.try("write rw2 4096 abcdef")
	var status struct{ Status string }
	if err := m.(*machine).qmp.Execute(ctx, "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Fatalf("with the host's disk full the machine is %q, %v", status.Status, err)
	}
	if !strings.Contains(answer, unix.EIO.Error()) {
		t.Errorf("with the host's disk full a write is answered %q", answer)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	g.do(t, "write rw2 4096 abcdef")
	b, err := os.ReadFile(disk)
	if err != nil || hex.EncodeToString(b[4096:4099]) != "abcdef" {
		t.Errorf("with room again what the guest wrote is not in the file: %v", err)
	}
	if err := m.ClearDisk(ctx, "rw2"); err != nil {
		t.Fatal(err)
	}
}
