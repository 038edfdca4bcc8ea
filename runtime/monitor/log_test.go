package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/oci"
)

func TestLogFromOffset(t *testing.T) {
	n := newNode(t, guestRuntime(t))
	req := n.run([]string{"lines", "20000"}, nil)
	n.wait(req.ID)
	whole, err := os.ReadFile(req.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	read := func(from int64) ([]byte, int64, error) {
		var got []byte
		first, next := int64(-1), from
		err := n.client.Log(t.Context(), LogRequest{ID: req.ID, Offset: from}, func(at int64, p []byte) error {
			if first < 0 {
				first, next = at, at
			}
			if at != next {
				t.Errorf("offset %d, want %d", at, next)
			}
			next += int64(len(p))
			got = append(got, p...)
			return nil
		})
		return got, first, err
	}
	size, enough := int64(len(whole)), errors.New("enough")
	err = n.client.Log(t.Context(), LogRequest{ID: req.ID, Offset: size / 2}, func(at int64, p []byte) error {
		if at != size/2 || string(p) != string(whole[at:at+int64(len(p))]) {
			t.Errorf("from the middle: %d bytes from %d on", len(p), at)
		}
		return enough // and nothing is acknowledged
	})
	if !errors.Is(err, enough) {
		t.Errorf("an error of the receiver: %v", err)
	}
	for _, from := range []int64{0, size - 1000, size} { // the last page is never given up
		got, first, err := read(from)
		if err != nil || string(got) != string(whole[from:]) || first != from && from != size {
			t.Errorf("from %d: %d bytes from %d on, %v", from, len(got), first, err)
		}
	}
	if st, err := os.Stat(req.LogPath); err != nil || st.Size() != size || st.Sys().(*syscall.Stat_t).Blocks*512 > 8192 {
		t.Errorf("acknowledged pages are still there: %+v, %v", st, err)
	}
	got, first, err := read(0)
	if err != nil || first < size-8192 || string(got) != string(whole[first:]) {
		t.Errorf("after all: %d bytes from %d on, %v", len(got), first, err)
	}
	for _, from := range []int64{-1, size + 1} {
		if _, _, err := read(from); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("from %d: %v", from, err)
		}
	}
}

// A small file system for logs fills up while nobody reads: lines are lost, whole ones.
// When the log is read and acknowledged, there is room again.
func TestLogThatWasFull(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	dir := t.TempDir()
	mountTmpfs(t, dir, "size=1m")
	req := guest.run([]string{"flood", "4", "2500"}, func(_ *specs.Spec, r *CreateRequest) { r.LogPath = filepath.Join(dir, "log") })
	guest.eventually("the log is full", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Bavail == 0
	})
	r := host.mirror(newMachine(t, guest.offer), req.ID)
	if err := host.flush(r.ID); err != nil {
		t.Fatal(err)
	}
	lines, missing, torn := numbered(host.text(r.LogPath, "stdout"))
	t.Logf("%d lines, %d missing, %d torn", lines, missing, torn)
	if lines < 40_000 || missing == 0 || torn != 0 {
		t.Errorf("%d lines, %d missing, %d torn", lines, missing, torn)
	}
	if err := guest.client.Delete(t.Context(), req.ID); err != nil {
		t.Error(err)
	}
}
