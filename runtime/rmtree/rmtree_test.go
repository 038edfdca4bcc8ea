package rmtree

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A tree that is deeper than a process can have descriptors, and than any path, is removed
// with few of them.
func TestRemoveOfDeepTree(t *testing.T) {
	const env = "CRICKET_TEST_DEEP_TREE"
	if dir := os.Getenv(env); dir != "" {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "top")
	deepTree(t, dir, 3000)
	c := exec.Command("sh", "-c", "ulimit -n 100; exec "+os.Args[0]+" -test.run='^"+t.Name()+"$'")
	c.Env = append(os.Environ(), env+"="+dir)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

// deepTree makes directories in each other, each with a file and with names that a removal may
// want to use.
func deepTree(t *testing.T, dir string, depth int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := range depth {
		name := ".lifted-" + strconv.Itoa(1+i%3) + strings.Repeat("x", i%2*200)
		fd := -1
		if err == nil {
			err = errors.Join(unix.Mkdirat(at, name, 0o700), unix.Mknodat(at, "file", unix.S_IFREG|0o600, 0))
		}
		if err == nil {
			fd, err = unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = fd
	}
	unix.Close(at)
}

func TestRemove(t *testing.T) {
	flag := func(t *testing.T, path string, flag int) {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flag); err != nil {
			t.Fatal(err)
		}
	}
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside)
	for name, fill := range map[string]func(t *testing.T, dir string){
		"nothing": func(*testing.T, string) {},
		"a file":  func(t *testing.T, dir string) { write(t, dir) },
		"links that lead out": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "file"))
			if err := errors.Join(os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")), os.Symlink("/none", filepath.Join(dir, "dangling"))); err != nil {
				t.Fatal(err)
			}
		},
		"many names": func(t *testing.T, dir string) {
			for i := range 3 * namesAtOnce {
				write(t, filepath.Join(dir, strconv.Itoa(i%7), strconv.Itoa(i)))
			}
		},
		"an immutable file": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "a/file"))
			flag(t, filepath.Join(dir, "a/file"), immutable)
		},
		"an immutable directory": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "a/b/file"))
			flag(t, filepath.Join(dir, "a/b"), immutable)
			flag(t, filepath.Join(dir, "a"), appendOnly)
			flag(t, dir, immutable)
		},
		"an immutable directory far below": func(t *testing.T, dir string) {
			deep := filepath.Join(dir, strings.Repeat("d/", 3*liftDepth))
			write(t, filepath.Join(deep, "file"))
			for d := deep; d != dir; d = filepath.Dir(d) {
				flag(t, d, immutable)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			fill(t, dir)
			if err := Remove(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is there: %v", err)
			}
			if _, err := os.Lstat(outside); err != nil {
				t.Error(err)
			}
		})
	}
	if err := Remove(filepath.Join(outside, "in", "a file")); err == nil {
		t.Error("a directory that is a file is no error")
	}
}
