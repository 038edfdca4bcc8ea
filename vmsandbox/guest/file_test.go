package guest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A tree that is deeper than process 1 may have descriptors is removed.
func TestGuestRemovesDeepTree(t *testing.T) {
	const env = "CRICKET_TEST_DEEP_TREE"
	if dir := os.Getenv(env); dir != "" {
		p, err := descend(dir, "in/top", false)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if err := p.remove(); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	makeDeep(t, filepath.Join(dir, "in"), 5000)
	c := exec.Command("sh", "-c", "ulimit -n 100; exec "+os.Args[0]+" -test.run='^"+t.Name()+"$'")
	c.Env = append(os.Environ(), env+"="+dir)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Lstat(filepath.Join(dir, "in/top")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

// makeDeep makes a directory and in it directories in each other, all called top.
func makeDeep(t *testing.T, dir string, depth int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range depth {
		fd := -1
		if err == nil {
			err = unix.Mkdirat(at, "top", 0o700)
		}
		if err == nil {
			fd, err = unix.Openat(at, "top", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = fd
	}
	unix.Close(at)
}
