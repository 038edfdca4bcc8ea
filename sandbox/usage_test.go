package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/rmtree"
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

// measurable makes a container, and returns what measures its writable layer and where
// that is.
func measurable(t *testing.T) (func(context.Context) (runtime.DiskUsage, error), string) {
	h := newHost(t)
	live, err := create(t, h, h.config(podID)).NewContainer(t.Context(), containerConfig("c01"))
	if err != nil {
		t.Fatal(err)
	}
	measure := live.(interface {
		DiskUsage(context.Context) (runtime.DiskUsage, error)
	}).DiskUsage
	return measure, h.monitor.created["c01"].Rootfs.Upper
}

// A container can make directories that are deeper than any path, which take the daemon
// neither memory nor time.
func TestDiskUsageOfDeepTree(t *testing.T) {
	measure, upper := measurable(t)
	const depth = 3000
	bytes := deepTree(t, upper, depth)
	highest := highestHeap(t)
	began := time.Now()
	got, err := measure(t.Context())
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	if grown := highest(); grown > 64<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if err != nil || got.Inodes != depth+2 || got.Bytes != bytes {
		t.Errorf("usage: %+v, %v; want %d inodes, %d bytes", got, err, depth+2, bytes)
	}
}

// deepTree makes so many directories in each other, with a file in the innermost, and
// returns what they occupy with upper itself.
func deepTree(t *testing.T, upper string, depth int) (bytes uint64) {
	name := strings.Repeat("d", 255)
	t.Cleanup(func() {
		if err := rmtree.Remove(filepath.Join(upper, name)); err != nil {
			t.Error(err)
		}
	})
	const flags = unix.O_DIRECTORY | unix.O_CLOEXEC
	at, err := unix.Open(upper, flags, 0)
	for range depth {
		if err == nil {
			err = unix.Mkdirat(at, name, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		bytes += occupied(t, at)
		inner, err := unix.Openat(at, name, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = inner
	}
	defer unix.Close(at)
	fd, err := unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "file")
	defer f.Close()
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // blocks are given when it is written back
		t.Fatal(err)
	}
	return bytes + occupied(t, at) + occupied(t, fd)
}

func occupied(t *testing.T, fd int) uint64 {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Blocks) * 512
}

// highestHeap observes the heap and returns, once, by how much it has grown at most.
func highestHeap(t *testing.T) func() uint64 {
	t.Helper()
	heap := func() uint64 {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	first := heap()
	highest := first
	quit, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			highest = max(highest, heap())
			select {
			case <-quit:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() uint64 {
		close(quit)
		<-stopped
		return highest - first
	}
}

// A directory with very many entries does not keep who has no time for it.
func TestDiskUsageOfWideTree(t *testing.T) {
	measure, upper := measurable(t)
	// Links are made and removed much faster than files.
	const files, links = 5, 40_000
	for i := range files {
		first := filepath.Join(upper, strconv.Itoa(i))
		err := os.WriteFile(first, nil, 0o600)
		for j := 0; err == nil && j < links; j++ {
			err = os.Link(first, first+"."+strconv.Itoa(j))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	took := time.Hour
	for range 5 { // the machine may have other work
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		began := time.Now()
		part, err := measure(ctx)
		took = min(took, time.Since(began))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || part.Inodes == 0 || part.FS == nil {
			t.Errorf("usage: %+v, %v", part, err)
		}
	}
	if took > 200*time.Millisecond {
		t.Errorf("took %s", took)
	}
	if got, err := measure(t.Context()); err != nil || got.Inodes != files+1 {
		t.Errorf("usage: %+v, %v", got, err)
	}
}

// A file counts once, whatever names it has.
func TestDiskUsageOfLinks(t *testing.T) {
	measure, upper := measurable(t)
	first := filepath.Join(upper, "first")
	if err := errors.Join(
		os.WriteFile(first, nil, 0o600), os.Mkdir(filepath.Join(upper, "dir"), 0o755),
		os.Link(first, filepath.Join(upper, "second")), os.Link(first, filepath.Join(upper, "dir", "third")),
		os.Symlink(first, filepath.Join(upper, "symbolic")), os.WriteFile(filepath.Join(upper, "other"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if got, err := measure(t.Context()); err != nil || got.Inodes != 5 {
		t.Errorf("usage: %+v, %v; want upper, dir, first, symbolic, other", got, err)
	}
}
