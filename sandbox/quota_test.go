package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/quota"
)

// quotaEnv is that of sandbox/quota's tests.
const quotaEnv = "CRICKET_TEST_QUOTA_DIR"

// A container's writable layer holds so much and no more, is measured by the file system,
// and gives its project back; what a killed daemon left is found by the next one.
func TestWritableLimit(t *testing.T) {
	dir := os.Getenv(quotaEnv)
	if dir == "" {
		t.Skip("TestInAMachine of test/quota runs this on a file system with project quotas")
	}
	h := newHost(t)
	if err := unix.Mount(dir, h.options.Root, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(os.RemoveAll(filepath.Join(h.options.Root, "containers")), unix.Unmount(h.options.Root, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	const limit = 1 << 20
	open := func() {
		t.Helper()
		layers, err := sandbox.LayerRoot(h.options.Root)
		if err != nil {
			t.Fatal(err)
		}
		// A single project: whatever is not given back is missed.
		if h.options.Quota, err = quota.Open(layers, limit, quota.Range{First: 500, Last: 500}); err != nil {
			t.Fatal(err)
		}
		h.restart(t)
	}
	open()
	s := create(t, h, h.config(podID))
	for range 2 {
		c, err := s.NewContainer(t.Context(), containerConfig("c01"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.NewContainer(t.Context(), containerConfig("c02")); err == nil {
			t.Fatal("a second container has no project, and is made")
		}
		full := fillFile(t, filepath.Join(h.monitor.created["c01"].Rootfs.Upper, "file"))
		if full < limit/2 || full > limit {
			t.Errorf("%d bytes fit below a limit of %d", full, limit)
		}
		usage, err := c.(interface {
			DiskUsage(context.Context) (runtime.DiskUsage, error)
		}).DiskUsage(t.Context())
		if err != nil || usage.Bytes < uint64(full) || usage.Bytes > limit || usage.FS == nil || usage.FS.Bytes < 8*limit {
			t.Errorf("usage: %+v of %+v: %v", usage, usage.FS, err)
		}
		if err := c.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A directory that a killed daemon has only begun gives its project back, too.
	half := filepath.Join(h.options.Root, "containers", ".new-c03")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.options.Quota.Assign(half); err != nil {
		t.Fatal(err)
	}
	open()
	s, err := h.Attach(t.Context(), s.Record())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewContainer(t.Context(), containerConfig("c03")); err != nil {
		t.Fatal(err)
	}
	// And one that is there keeps it.
	open()
	if s, err = h.Attach(t.Context(), s.Record()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewContainer(t.Context(), containerConfig("c04")); err == nil {
		t.Error("two containers have one project")
	}
}

// fillFile writes until it is refused, and returns how much it could. Limits of ext4 mean
// nothing to who has CAP_SYS_RESOURCE, which this process must not have.
func fillFile(t *testing.T, name string) (written int) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		n, err := f.Write(make([]byte, 64<<10))
		written += n
		if errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) {
			return written
		}
		if err != nil || written > 64<<20 {
			t.Fatalf("wrote %d bytes: %v", written, err)
		}
	}
}
