package tree

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What a pod has mounted is unmounted, and never removed.
func TestRemove(t *testing.T) {
	dir, precious := t.TempDir(), t.TempDir()
	for _, d := range []string{"m/volumes/host", "m/deep/er"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(precious, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mount(t, precious, filepath.Join(dir, "m/volumes/host"))
	mount(t, precious, filepath.Join(dir, "m/volumes/host")) // twice over
	if err := os.Symlink(precious, filepath.Join(dir, "m/link")); err != nil {
		t.Fatal(err)
	}
	if err := Remove(filepath.Join(dir, "m")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "m")); err == nil {
		t.Error("the directory is still there")
	}
	if _, err := os.Stat(filepath.Join(precious, "data")); err != nil {
		t.Fatal("the content of a volume was removed")
	}
	// Had it not been unmounted, it would not have been entered.
	if err := os.MkdirAll(filepath.Join(dir, "v/host"), 0o700); err != nil {
		t.Fatal(err)
	}
	mount(t, precious, filepath.Join(dir, "v/host"))
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := RemoveAt(int(d.Fd()), "v"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a tree with a mount: %v", err)
	}
	if _, err := os.Stat(filepath.Join(precious, "data")); err != nil {
		t.Fatal("the content of a volume was removed")
	}
}

func mount(t *testing.T, source, target string) {
	t.Helper()
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}
