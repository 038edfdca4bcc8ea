package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// makeLayer makes a tar of NAME, CONTENT pairs. A name ending in "@" is a symbolic link.
func makeLayer(t testing.TB, pairs ...string) (digest.Digest, []byte) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		name, body := pairs[i], pairs[i+1]
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}
		if l, ok := strings.CutSuffix(name, "@"); ok {
			h = &tar.Header{Name: l, Linkname: body, Typeflag: tar.TypeSymlink}
			body = ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	return digest.FromBytes(b.Bytes()), b.Bytes()
}

func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Root == "" {
		base := t.TempDir()
		o.Root, o.State = base+"/root", base+"/state"
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range s.List() {
			if err := s.Remove(context.Background(), id); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		unix.Unmount(s.state, unix.MNT_DETACH) // where it became a mount
		if m := mountsBelow(t, s.state); len(m) > 0 {
			t.Errorf("left mounted: %v", m)
		}
	})
	return s
}

func mountsBelow(t testing.TB, dir string) (points []string) {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		points = append(points, i.Mountpoint)
	}
	return points
}

func ingest(t testing.TB, s *Store, pairs ...string) digest.Digest {
	t.Helper()
	id, b := makeLayer(t, pairs...)
	if err := s.Ingest(t.Context(), id, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIngestMountRemove(t *testing.T) {
	for _, loop := range []bool{false, true} {
		s := open(t, Options{ForceLoop: loop, Root: t.TempDir(), State: t.TempDir()})
		a := ingest(t, s, "a", "1")
		b := ingest(t, s, "b", "2")
		dirs, err := s.Mount(t.Context(), []digest.Digest{b, a, b})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(dirs[0] + "/a"); string(got) != "1" || len(dirs) != 2 {
			t.Errorf("loop %v: a holds %q, dirs %v", loop, got, dirs)
		}
		if m := mountsBelow(t, s.state); len(m) != 2 {
			t.Errorf("loop %v: mounts %v", loop, m)
		}
		var st unix.Stat_t
		if err := unix.Stat(dirs[0], &st); err != nil || (unix.Major(st.Dev) == 7) != loop {
			t.Errorf("loop %v: device %x, %v", loop, st.Dev, err)
		}
		if err := os.WriteFile(dirs[1]+"/b", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("loop %v: write: %v", loop, err)
		}
		for range 2 {
			if err := s.Remove(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		if s.Has(a) || !s.Has(b) || !slices.Equal(s.List(), []digest.Digest{b}) {
			t.Errorf("loop %v: list %v", loop, s.List())
		}
		if _, err := s.Mount(t.Context(), []digest.Digest{a}); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("loop %v: mount of removed layer: %v", loop, err)
		}
	}
}

func TestMountsAreAdoptedAndNeverDoubled(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	s := open(t, Options{Root: root, State: state})
	id := ingest(t, s, "a", "1")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := s.Mount(context.Background(), []digest.Digest{id}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	before := mountsBelow(t, state)
	again := open(t, Options{Root: root, State: state})
	if _, err := again.Mount(t.Context(), []digest.Digest{id}); err != nil {
		t.Fatal(err)
	}
	if m := mountsBelow(t, state); len(m) != 1 || !slices.Equal(m, before) {
		t.Errorf("mounts %v, before %v", m, before)
	}
}

func TestOpenCleansUp(t *testing.T) {
	root, state := t.TempDir(), t.TempDir()
	s := open(t, Options{Root: root, State: state})
	whole := ingest(t, s, "a", "1")
	torn := ingest(t, s, "b", strings.Repeat("2", 10000))
	gone := ingest(t, s, "c", "3")
	if _, err := s.Mount(t.Context(), []digest.Digest{whole, gone}); err != nil {
		t.Fatal(err)
	}
	path, size, _ := s.Blob(torn)
	if err := os.Truncate(path, size-4096); err != nil {
		t.Fatal(err)
	}
	path, _, _ = s.Blob(gone)
	os.Remove(path)
	left := filepath.Join(root, tempPrefix+"123")
	os.WriteFile(left, []byte("x"), 0o600)

	s = open(t, Options{Root: root, State: state})
	if got := s.List(); !slices.Equal(got, []digest.Digest{whole}) {
		t.Errorf("list %v, want %v", got, whole)
	}
	if m := mountsBelow(t, state); len(m) != 1 {
		t.Errorf("mounts %v", m)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
}

func TestSharedStateBecomesPrivate(t *testing.T) {
	base := t.TempDir()
	if err := unix.Mount(base, base, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(base, unix.MNT_DETACH)
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(base, "state")
	for range 2 {
		s := open(t, Options{Root: base + "/root", State: state})
		id := ingest(t, s, "a", "1")
		if _, err := s.Mount(t.Context(), []digest.Digest{id}); err != nil {
			t.Fatal(err)
		}
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(state))
	if err != nil || len(infos) != 2 {
		t.Fatalf("mounts %v, %v", infos, err)
	}
	for _, i := range infos {
		if i.Optional != "" {
			t.Errorf("%s is %s", i.Mountpoint, i.Optional)
		}
	}
}

// failing delivers some bytes and then an error, or blocks until ctx ends.
type failing struct {
	r   io.Reader
	ctx context.Context
}

func (f failing) Read(p []byte) (int, error) {
	if n, err := f.r.Read(p); err == nil {
		return n, nil
	}
	<-f.ctx.Done()
	return 0, f.ctx.Err()
}

func TestFailedIngestLeavesNothing(t *testing.T) {
	s := open(t, Options{})
	id, b := makeLayer(t, "a", strings.Repeat("1", 100000), "b", "2")
	other := digest.FromString("other")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		id   digest.Digest
		r    io.Reader
		kind error
	}{
		"wrong digest":  {other, bytes.NewReader(b), errdefs.ErrInvalidArgument},
		"cut":           {id, bytes.NewReader(b[:50000]), errdefs.ErrInvalidArgument},
		"padding lost":  {id, bytes.NewReader(b[:len(b)-512]), errdefs.ErrInvalidArgument},
		"stream breaks": {id, io.MultiReader(bytes.NewReader(b[:50000]), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
		"stream fails":  {id, failing{bytes.NewReader(b[:50000]), ctx}, context.Canceled},
		"no digest":     {"sha256:zz", bytes.NewReader(b), errdefs.ErrInvalidArgument},
		"path as id":    {"../../x", bytes.NewReader(b), errdefs.ErrInvalidArgument},
	} {
		if err := s.Ingest(t.Context(), tc.id, tc.r); !errors.Is(err, tc.kind) {
			t.Errorf("%s: error is %v, want %v", name, err, tc.kind)
		} else if name == "stream breaks" && errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v blames the tar", name, err)
		}
		if e, _ := os.ReadDir(s.root); len(e) != 0 {
			t.Errorf("%s: left %v", name, e)
		}
	}
}

func TestFollowersOutliveACancelledLeader(t *testing.T) {
	s := open(t, Options{})
	id, b := makeLayer(t, "a", strings.Repeat("1", 100000))
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		r := failing{io.MultiReader(signal{begun}, bytes.NewReader(b[:50000])), ctx}
		if err := s.Ingest(ctx, id, r); !errors.Is(err, context.Canceled) {
			t.Errorf("leader: %v", err)
		}
	})
	<-begun
	var read atomic.Int32 // followers whose tar was read
	for range 4 {
		group.Go(func() {
			r := bytes.NewReader(b)
			if err := s.Ingest(context.Background(), id, r); err != nil {
				t.Errorf("follower: %v", err)
			}
			if r.Len() < len(b) {
				read.Add(1)
			}
		})
	}
	short, stop := context.WithCancel(t.Context())
	stop()
	if err := s.Ingest(short, id, bytes.NewReader(b)); !errors.Is(err, context.Canceled) {
		t.Errorf("follower that gave up: %v", err)
	}
	cancel()
	group.Wait()
	if !s.Has(id) || read.Load() != 1 {
		t.Errorf("layer there: %v; %d followers worked, want 1", s.Has(id), read.Load())
	}
}

type signal struct{ c chan struct{} }

func (s signal) Read([]byte) (int, error) { close(s.c); return 0, io.EOF }

func TestDirectIO(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir(), DirectIO: true})
	id := ingest(t, s, "a", strings.Repeat("1", 100000))
	dirs, err := s.Mount(t.Context(), []digest.Digest{id})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dirs[0] + "/a"); err != nil || len(b) != 100000 {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}

func TestUsageCountsRealBlocks(t *testing.T) {
	s := open(t, Options{})
	bytes0, inodes0 := s.Usage()
	id := ingest(t, s, "data", strings.Repeat("d", 1<<20), "zeros", strings.Repeat("\x00", 8<<20))
	bytes1, inodes1 := s.Usage()
	if grown := bytes1 - bytes0; grown < 1<<20 || grown > 1<<20+64<<10 || inodes1-inodes0 != 1 {
		t.Errorf("grown by %d bytes, %d inodes", grown, inodes1-inodes0)
	}
	if err := s.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if b, i := s.Usage(); b != bytes0 || i != inodes0 {
		t.Errorf("after removal %d bytes, %d inodes; before %d, %d", b, i, bytes0, inodes0)
	}
}

// A layer is lacking if it is not there, and not if nobody can tell.
func TestLacks(t *testing.T) {
	root := t.TempDir() + "/root"
	s := open(t, Options{Root: root, State: t.TempDir()})
	id, raw := makeLayer(t, "a", "1")
	if s.Has(id) || !s.Lacks(id) {
		t.Errorf("before: has %v, lacks %v", s.Has(id), s.Lacks(id))
	}
	ingestAll(t, s, raw)
	if !s.Has(id) || s.Lacks(id) {
		t.Errorf("after: has %v, lacks %v", s.Has(id), s.Lacks(id))
	}
	if err := errors.Join(os.Rename(root, root+"-away"), os.WriteFile(root, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if s.Has(id) || s.Lacks(id) {
		t.Errorf("unreadable: has %v, lacks %v", s.Has(id), s.Lacks(id))
	}
	if err := errors.Join(os.Remove(root), os.Rename(root+"-away", root)); err != nil {
		t.Fatal(err)
	}
}
