package quota

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// dirEnv names a directory on a file system that enforces project quotas; with it nothing is
// skipped. test/quota sets it, in a virtual machine whose kernel has them.
const dirEnv = "CRICKET_TEST_QUOTA_DIR"

const (
	mib   = 1 << 20
	limit = 8 * mib
)

// limited is a directory on a file system that enforces project quotas.
func limited(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(dirEnv)
	if dir == "" {
		dir = t.TempDir()
		file := filepath.Join(t.TempDir(), "disk")
		for _, c := range [][]string{
			{"truncate", "-s", "128M", file}, {"mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", file},
		} {
			if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", c, err, out)
			}
		}
		if out, err := exec.Command("mount", "-o", "loop,prjquota", file, dir).CombinedOutput(); err != nil {
			// It is the quotas if it can be mounted to be read.
			if out, err := exec.Command("mount", "-o", "loop,ro", file, dir).CombinedOutput(); err != nil {
				t.Fatalf("mount: %v: %s", err, out)
			}
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
			t.Skipf("this kernel has no project quotas on ext4; TestInAMachine of test/quota runs this on one that has: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	base, err := os.MkdirTemp(dir, "test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	return base
}

func open(t *testing.T, parent string, ids Range) *Projects {
	t.Helper()
	p, err := Open(parent, limit, ids)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func assigned(t *testing.T, p *Projects, name string) string {
	t.Helper()
	dir := filepath.Join(p.parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.Assign(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bound has the test's thread do without the capability that lets ext4 pass over limits,
// as containers do.
func bound(t *testing.T, do func()) {
	t.Helper()
	done := make(chan error)
	go func() { done <- withoutResource(do) }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// fill writes to a file until the file system refuses, and returns how much it took.
func fill(t *testing.T, file string, most int) (written int, err error) {
	t.Helper()
	bound(t, func() {
		var f *os.File
		if f, err = os.Create(file); err != nil {
			return
		}
		defer f.Close()
		block := make([]byte, mib/4)
		for i := range block {
			block[i] = byte(i)
		}
		for written < most && err == nil {
			var n int
			n, err = f.Write(block)
			written += n
		}
		if err == nil {
			err = f.Sync()
		}
	})
	return written, err
}

func isFull(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }

// What is beyond the limit is refused to that directory, through an overlay, too; others
// have their own.
func TestLimit(t *testing.T) {
	p := open(t, limited(t), Range{100, 110})
	first, second := assigned(t, p, "first"), assigned(t, p, "second")
	for _, d := range []string{"upper", "work", "lower", "merged"} {
		if err := os.Mkdir(filepath.Join(first, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(first, "lower/low"), make([]byte, mib), 0o644); err != nil {
		t.Fatal(err)
	}
	merged := filepath.Join(first, "merged")
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", first)); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
	if n, err := fill(t, merged+"/big", 2*limit); !isFull(err) || n > limit || n < limit/2 {
		t.Errorf("wrote %d of %d bytes: %v", n, limit, err)
	}
	bound(t, func() {
		// It is copied up, which is writing, too.
		if f, err := os.OpenFile(merged+"/low", os.O_WRONLY|os.O_APPEND, 0); !isFull(err) {
			t.Errorf("open a file of a lower layer for writing: %v", errors.Join(err, f.Close()))
		}
	})
	if n, err := fill(t, second+"/big", limit/2); err != nil || n != limit/2 {
		t.Errorf("beside a full one: wrote %d bytes: %v", n, err)
	}
	if n, err := fill(t, filepath.Join(p.parent, "outside"), 2*limit); err != nil || n != 2*limit {
		t.Errorf("outside: wrote %d bytes: %v", n, err)
	}
	for dir, want := range map[string][2]uint64{first: {limit * 7 / 8, limit}, second: {limit / 2, limit/2 + mib/4}} {
		if u, err := p.Usage(dir); err != nil || u.Bytes < want[0] || u.Bytes > want[1] || u.Inodes < 2 || u.Inodes > 12 {
			t.Errorf("%s holds %+v, want %d to %d bytes: %v", filepath.Base(dir), u, want[0], want[1], err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(merged, &fs); err != nil || fs.Blocks*uint64(fs.Bsize) != limit {
		t.Errorf("df shows %d bytes, want the limit: %v", fs.Blocks*uint64(fs.Bsize), err)
	}
	if err := os.Remove(merged + "/big"); err != nil {
		t.Fatal(err)
	}
	if n, err := fill(t, merged+"/again", limit/2); err != nil {
		t.Errorf("after a removal: wrote %d bytes: %v", n, err)
	}
}

// Numbers are given once, come back with the removal, and are found again by who opens the
// directories anew.
func TestNumbers(t *testing.T) {
	parent, ids := limited(t), Range{200, 202}
	p := open(t, parent, ids)
	seen := map[uint32]string{}
	for _, name := range []string{"a", "b", "c"} {
		id, err := read(assigned(t, p, name))
		if err != nil || !p.ours(id) || seen[id] != "" {
			t.Errorf("%s has project %d, which %q has: %v", name, id, seen[id], err)
		}
		seen[id] = name
	}
	if err := os.Mkdir(filepath.Join(parent, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, parent, ids)
	for _, p := range []*Projects{p, again} {
		if err := p.Assign(filepath.Join(parent, "d")); !errdefs.IsResourceExhausted(err) {
			t.Errorf("a fourth of three: %v", err)
		}
	}
	b := filepath.Join(parent, "b")
	was, _ := read(b)
	free := again.Release(b)
	if err := os.RemoveAll(b); err != nil {
		t.Fatal(err)
	}
	free()
	if err := again.Assign(filepath.Join(parent, "d")); err != nil {
		t.Fatal(err)
	}
	if id, err := read(filepath.Join(parent, "d")); id != was || err != nil {
		t.Errorf("the project that was freed is %d, not %d: %v", was, id, err)
	}
	again.Release(filepath.Join(parent, "never there"))()
	if _, err := again.Usage(parent); !errdefs.IsNotFound(err) {
		t.Errorf("usage of a directory without a project: %v", err)
	}
}

// No file gets from one project into another by being moved or linked.
func TestStays(t *testing.T) {
	p := open(t, limited(t), Range{300, 310})
	a, b := assigned(t, p, "a"), assigned(t, p, "b")
	if err := os.WriteFile(a+"/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(a+"/file", b+"/file"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("moved from one to the other: %v", err)
	}
	if err := os.Link(a+"/file", b+"/file"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("linked from one to the other: %v", err)
	}
}

// A file system that cannot do it is refused, with what helps.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	_, err := Open(dir, limit, Range{1, 2})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "prjquota") {
		t.Errorf("a tmpfs: %v", err)
	}
	if _, err := Open(dir, limit, Range{2, 1}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an empty range: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none"), limit, Range{1, 2}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

// BenchmarkAssign is what a limit adds to a container's life, beside the directory itself.
func BenchmarkAssign(b *testing.B) {
	dir := limited(b)
	p, err := Open(dir, limit, Range{1000, 2000})
	if err != nil {
		b.Fatal(err)
	}
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	at := filepath.Join(dir, "bench")
	b.Run("directory", func(b *testing.B) {
		for range b.N {
			check(os.Mkdir(at, 0o700))
			check(os.Remove(at))
		}
	})
	b.Run("limited", func(b *testing.B) {
		for range b.N {
			check(os.Mkdir(at, 0o700))
			check(p.Assign(at))
			free := p.Release(at)
			check(os.Remove(at))
			free()
		}
	})
	check(os.Mkdir(at, 0o700))
	check(p.Assign(at))
	b.Run("usage", func(b *testing.B) {
		for range b.N {
			_, err := p.Usage(at)
			check(err)
		}
	})
}
