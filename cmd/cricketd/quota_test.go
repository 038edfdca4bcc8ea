package main

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/config"
)

// A limit that nothing could keep is refused before anything is made, with its key and what
// helps.
func TestWritableLimitIsRefused(t *testing.T) {
	c := config.Default()
	c.Root = t.TempDir()
	if err := unix.Mount("tmpfs", c.Root, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(c.Root, unix.MNT_DETACH) }()
	if p, err := openQuota(c); p != nil || err != nil {
		t.Errorf("without a limit: %v, %v", p, err)
	}
	c.Containers.WritableLimit = 100
	_, err := openQuota(c)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "containers.writable_limit") || !strings.Contains(err.Error(), "prjquota") {
		t.Errorf("on a tmpfs: %v", err)
	}
}
