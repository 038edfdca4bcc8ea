package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Only what specs bind is unmounted: anything else below is a leak to be seen.
func TestUnmountSpecs(t *testing.T) {
	dir := t.TempDir()
	for path, kept := range map[string]bool{"testab01/mnt": false, "testab01/other": true, "elsewhere/mnt": true, "testab02/mnt/below": true} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			mounted, err := mountinfo.Mounted(path)
			if err != nil || mounted != kept {
				t.Errorf("%s is mounted: %t, %v", path, mounted, err)
			}
			_ = unix.Unmount(path, unix.MNT_DETACH)
		})
	}
	if err := unmountSpecs(dir); err != nil {
		t.Error(err)
	}
}
