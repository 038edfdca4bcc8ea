package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "disks")
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func take(t testing.TB, s *Store, owner, name string) string {
	t.Helper()
	path, err := s.Take(t.Context(), owner, name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDiskIsAFileSystemThatTakesNoRoom(t *testing.T) {
	s := open(t, Options{})
	path := take(t, s, "m1", "rw0")
	st, err := os.Stat(path)
	if err != nil || st.Size() != DefaultBytes {
		t.Fatalf("size %v, %v", st.Size(), err)
	}
	usage, err := s.Usage("m1")
	if err != nil || len(usage) != 1 || usage["rw0"] == 0 || usage["rw0"] > 1<<20 {
		t.Errorf("usage = %v, %v", usage, err)
	}
	out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	out, err = exec.Command("dumpe2fs", path).Output()
	if err != nil || bytes.Contains(out, []byte("has_journal")) {
		t.Errorf("dumpe2fs: %v, journal: %t", err, bytes.Contains(out, []byte("has_journal")))
	}
	// What is not marked as zeroed would be zeroed by the guest, on the host's disk.
	if n := bytes.Count(out, []byte("ITABLE_ZEROED")); n != 512 {
		t.Errorf("%d of 512 groups have zeroed inode tables", n)
	}
}

// TestDiskKeepsWhatIsWritten uses the disk with this machine's kernel.
func TestDiskKeepsWhatIsWritten(t *testing.T) {
	s := open(t, Options{Bytes: 256 << 20})
	path := take(t, s, "m1", "rw0")
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", path, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	mounted := true
	defer func() {
		if mounted {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}()
	before, _ := s.Usage("m1")
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(strings.Repeat("x", i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("y"), 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	// A mount namespace that somebody makes meanwhile keeps the file system mounted.
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Syncfs(int(root.Fd())), root.Close(), unix.Unmount(dir, 0)); err != nil {
		t.Fatal(err)
	}
	mounted = false
	after, _ := s.Usage("m1")
	if grown := after["rw0"] - before["rw0"]; grown < 8<<20 || grown > 16<<20 {
		t.Errorf("usage grew by %d for 8 MiB", grown)
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestDisksAreAlikeAndSeparate(t *testing.T) {
	s := open(t, Options{Bytes: 64 << 20})
	a, b := take(t, s, "m1", "rw0"), take(t, s, "m2", "rw0")
	x, _ := os.ReadFile(a)
	y, _ := os.ReadFile(b)
	if len(x) != 64<<20 || !bytes.Equal(x, y) {
		t.Error("two new disks differ")
	}
	if _, err := s.Take(t.Context(), "m1", "rw0"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second disk of a name: %v", err)
	}
	if z, _ := os.ReadFile(a); !bytes.Equal(x, z) {
		t.Error("the first disk was touched")
	}
	entries, _ := os.ReadDir(filepath.Dir(a))
	if len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
}

// TestCopy: a copy is what the disk was when it was read, takes as little room, and is a
// disk of its own.
func TestCopy(t *testing.T) {
	s := open(t, Options{})
	from := take(t, s, "template", "rw0")
	was := []byte("written before it was read")
	overwrite(t, from, 1<<30, was)
	pattern, err := s.Read("template", "rw0")
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, from, 1<<30, []byte("written after it was read "))
	to, err := s.Copy("m1", "rw0", pattern)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, len(was))
	if _, err := f.ReadAt(got, 1<<30); err != nil || !bytes.Equal(got, was) {
		t.Errorf("copy has %q, %v", got, err)
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", to).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if usage, err := s.Usage("m1"); err != nil || usage["rw0"] > 1<<20 {
		t.Errorf("usage = %v, %v", usage, err)
	}
	if _, err := s.Copy("m1", "rw0", pattern); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second copy: %v", err)
	}
	if _, err := s.Read("m2", "rw0"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
}

func overwrite(t *testing.T, path string, offset int64, content []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(content, offset)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := open(t, Options{Bytes: 64 << 20})
	var all sync.WaitGroup
	errs := make([]error, 32)
	for i := range errs {
		all.Go(func() { _, errs[i] = s.Take(t.Context(), fmt.Sprintf("m%d", i/4), fmt.Sprintf("rw%d", i%4)) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	owners, err := s.Owners()
	if err != nil || len(owners) != 8 {
		t.Errorf("owners = %v, %v", owners, err)
	}
}

func TestWhatACrashLeaves(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disks")
	s := open(t, Options{Dir: dir, Bytes: 64 << 20})
	take(t, s, "alive", "rw0")
	take(t, s, "dead", "rw0")
	half := filepath.Join(dir, "alive", ".rw1")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, Bytes: 64 << 20})
	if err := s.Reconcile(func(owner string) bool { return owner == "alive" }); err != nil {
		t.Fatal(err)
	}
	if owners, _ := s.Owners(); !slices.Equal(owners, []string{"alive"}) {
		t.Errorf("owners = %v", owners)
	}
	usage, err := s.Usage("alive")
	if err != nil || len(usage) != 1 {
		t.Errorf("usage = %v, %v", usage, err)
	}
	path := take(t, s, "alive", "rw1")
	if out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if err := s.Remove("alive", "rw1", "rw3"); err != nil {
		t.Fatal(err)
	}
	if usage, _ := s.Usage("alive"); len(usage) != 1 {
		t.Errorf("usage = %v", usage)
	}
	for range 2 {
		if err := s.Remove("alive"); err != nil {
			t.Fatal(err)
		}
	}
	if usage, err := s.Usage("alive"); err != nil || len(usage) != 0 {
		t.Errorf("usage = %v, %v", usage, err)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, Options{Bytes: 64 << 20})
	for _, name := range []string{"", ".", "..", "../m2", "a/b", ".hidden", "nul\x00"} {
		if _, err := s.Take(t.Context(), name, "rw0"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("owner %q: %v", name, err)
		}
		if err := s.Remove(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("remove %q: %v", name, err)
		}
		if name == "" {
			continue
		}
		if _, err := s.Take(t.Context(), "m1", name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, bytes := range []int64{-1, 1, 1 << 50} {
		if _, err := Open(Options{Dir: t.TempDir(), Bytes: bytes}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d bytes: %v", bytes, err)
		}
	}
}

func TestFailureIsNotRemembered(t *testing.T) {
	s := open(t, Options{Bytes: 64 << 20, Program: filepath.Join(t.TempDir(), "mkfs")})
	if _, err := s.Take(t.Context(), "m1", "rw0"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("no program: %v", err)
	}
	if err := os.WriteFile(s.options.Program, []byte("#!/bin/sh\necho out of luck\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Take(t.Context(), "m1", "rw0"); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("program that fails: %v", err)
	}
	if owners, _ := s.Owners(); len(owners) != 0 {
		t.Errorf("owners = %v", owners)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.options.Program = "mkfs.ext4"
	if _, err := s.Take(ctx, "m1", "rw0"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	take(t, s, "m1", "rw0")
}

func BenchmarkTake(b *testing.B) {
	s := open(b, Options{})
	take(b, s, "first", "rw0")
	for i := 0; b.Loop(); i++ {
		take(b, s, fmt.Sprintf("m%d", i), "rw0")
	}
}
