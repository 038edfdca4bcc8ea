package inroot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree has a link that leads through ".." often, and one that leads out.
func tree(t *testing.T) (dir string, root int) {
	t.Helper()
	dir = t.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "root/a"), 0o755), os.WriteFile(filepath.Join(dir, "root/file"), []byte("in"), 0o644),
		os.WriteFile(filepath.Join(dir, "secret"), []byte("out"), 0o644),
		os.Symlink(strings.Repeat("a/../", 500)+"file", filepath.Join(dir, "root/link")),
		os.Symlink("../../../secret", filepath.Join(dir, "root/out")),
	)
	if err != nil {
		t.Fatal(err)
	}
	root, err = unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(root) })
	return dir, root
}

// TestOpenBesideRenames: what others rename meanwhile, anywhere, makes the kernel give up, and
// Open not.
func TestOpenBesideRenames(t *testing.T) {
	dir, root := tree(t)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		from, to := filepath.Join(dir, "x"), filepath.Join(dir, "y")
		_ = os.WriteFile(from, nil, 0o644)
		for {
			select {
			case <-quit:
				return
			default:
				_ = os.Rename(from, to)
				from, to = to, from
			}
		}
	}()
	defer func() { close(quit); <-ended }()
	gaveUp := 0
	for i := 0; i < 1000000 && gaveUp < 20; i++ {
		fd, err := unix.Openat2(root, "link", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		if errors.Is(err, unix.EAGAIN) {
			gaveUp++
		} else if err == nil {
			unix.Close(fd)
		}
		if fd, err = Open(root, "link", unix.O_PATH); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		unix.Close(fd)
	}
	if gaveUp == 0 {
		t.Error("the kernel never gave up, so nothing was tried")
	}
}

func TestOpenStaysInside(t *testing.T) {
	_, root := tree(t)
	for path, want := range map[string]error{"out": unix.ENOENT, "../secret": unix.ENOENT, "/file": nil, "a/../../file": nil} {
		fd, err := Open(root, path, unix.O_RDONLY)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
}
