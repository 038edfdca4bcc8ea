package sandbox_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox"
)

// On a shared mount, as /run is under systemd, bundles lie on a private mount of their
// own, and the shared one keeps its propagation.
func TestBundlesOnASharedMount(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	if err := unix.Mount("test", dir, "tmpfs", 0, "mode=0711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	o := h.options
	o.Root, o.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	containers := filepath.Join(o.State, "containers")
	t.Cleanup(func() { _ = unix.Unmount(containers, unix.MNT_DETACH) })
	for range 2 { // a restart mounts nothing more
		if _, err := sandbox.NewDriver(o); err != nil {
			t.Fatal(err)
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil || len(mounts) != 2 {
		t.Fatalf("mounts: %v %v", mounts, err)
	}
	for _, m := range mounts {
		if shared := strings.Contains(m.Optional, "shared:"); shared != (m.Mountpoint == dir) {
			t.Errorf("%s: propagation %q", m.Mountpoint, m.Optional)
		}
	}
}
