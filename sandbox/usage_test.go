package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// A container that swaps a directory for a symbolic link while its layer is measured
// does not have the host's files measured.
func TestDiskUsageStaysInside(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	live, err := s.NewContainer(context.Background(), containerConfig("c01"))
	if err != nil {
		t.Fatal(err)
	}
	outside, upper := t.TempDir(), h.monitor.created["c01"].Rootfs.Upper
	for _, name := range strings.Fields("a b c d e f g h i j k l m n o p") {
		if err := os.WriteFile(filepath.Join(outside, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir, link := filepath.Join(upper, "dir"), filepath.Join(upper, "link")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-quit:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	usage := live.(interface {
		DiskUsage(context.Context) (runtime.DiskUsage, error)
	})
	for range 3000 {
		got, err := usage.DiskUsage(context.Background())
		if err != nil || got.Inodes > 3 {
			t.Errorf("usage: %+v %v", got, err)
			break
		}
	}
	close(quit)
	<-stopped
}
