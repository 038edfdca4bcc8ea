package layer

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A byte that changes anywhere in a blob is found, in a file's data as in the padding
// behind everything, and the layers beside it are well.
func TestVerifyFindsDamage(t *testing.T) {
	for name, at := range map[string]int64{"superblock": 1100, "data": 4096 + 100, "padding": Step - 1} {
		s := open(t, Options{})
		id := ingest(t, s, "a", strings.Repeat("a", 5000), "b", "b")
		well := ingest(t, s, "c", "c")
		b := Blobs{s.root}
		if v, err := b.Verify(t.Context(), id); err != nil || !v.Sealed || v.Bytes != Step {
			t.Fatalf("whole blob: %+v, %v", v, err)
		}
		damage(t, s, id, at)
		if _, err := b.Verify(t.Context(), id); !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s: error = %v, want data loss", name, err)
		}
		if v, err := b.Verify(t.Context(), well); err != nil || !v.Sealed {
			t.Errorf("the layer beside: %+v, %v", v, err)
		}
	}
}

// damage flips a bit of a blob.
func damage(t *testing.T, s *Store, id digest.Digest, at int64) {
	t.Helper()
	path, _, err := s.Blob(id)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// Blobs of versions that noted no digest are checked as far as their structure goes.
func TestVerifyWithoutDigest(t *testing.T) {
	s := open(t, Options{})
	id := ingest(t, s, "a", "a")
	path, _, _ := s.Blob(id)
	if err := unix.Removexattr(path, sealXattr); err != nil {
		t.Fatal(err)
	}
	b := Blobs{s.root}
	if v, err := b.Verify(t.Context(), id); err != nil || v.Sealed {
		t.Errorf("%+v, %v, want a verdict without digest", v, err)
	}
	for at := int64(2 * 4096); at < 3*4096; at += 8 { // the inodes
		damage(t, s, id, at)
	}
	if _, err := b.Verify(t.Context(), id); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("error = %v, want data loss", err)
	}
	if _, err := b.Verify(t.Context(), digest.FromString("absent")); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
}

func TestVerifyMergedMetadata(t *testing.T) {
	s := open(t, Options{})
	chain := []digest.Digest{ingest(t, s, "a", "a"), ingest(t, s, "b", "b")}
	files, err := s.Flat(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	b := Blobs{s.root}
	list, err := b.Merged()
	if err != nil || len(list) != 1 || list[0] != files[0] {
		t.Fatalf("merged = %v, %v, want %s", list, err, files[0])
	}
	if v, err := b.VerifyMerged(t.Context(), list[0]); err != nil || !v.Sealed {
		t.Errorf("%+v, %v", v, err)
	}
	raw, err := os.ReadFile(list[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[4096+1] ^= 1
	os.Chmod(list[0], 0o600)
	f, _ := os.OpenFile(list[0], os.O_WRONLY, 0)
	f.Write(raw)
	f.Close()
	if _, err := b.VerifyMerged(t.Context(), list[0]); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("error = %v, want data loss", err)
	}
}

// The tar of a layer makes the same layer again, under another name.
func TestTarOfLayer(t *testing.T) {
	s := open(t, Options{})
	id := ingest(t, s, "dir/a", strings.Repeat("a", 5000), "link@", "dir/a", ".wh.gone", "")
	var first bytes.Buffer
	if err := (Blobs{s.root}).WriteTar(t.Context(), id, &first); err != nil {
		t.Fatal(err)
	}
	again := digest.FromBytes(first.Bytes())
	if err := s.Ingest(t.Context(), again, bytes.NewReader(first.Bytes())); err != nil {
		t.Fatal(err)
	}
	var second bytes.Buffer
	if err := (Blobs{s.root}).WriteTar(t.Context(), again, &second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the tar of the second layer is another: %v", err)
	}
}

// A store with fs-verity says when it cannot have it, and works.
func TestFSVerity(t *testing.T) {
	var log bytes.Buffer
	s := open(t, Options{FSVerity: true, Root: t.TempDir(), State: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	id := ingest(t, s, "a", "a")
	v, err := Blobs{s.root}.Verify(t.Context(), id)
	if err != nil || !v.Sealed {
		t.Errorf("%+v, %v", v, err)
	}
	if said := strings.Contains(log.String(), "not protected by fs-verity"); said == v.Kernel {
		t.Errorf("kernel checks: %v, log: %s", v.Kernel, log.String())
	}
	if _, err := s.Mount(t.Context(), []digest.Digest{id}); err != nil {
		t.Error(err)
	}
}

// A store without a place for mounts takes and removes layers, and says what it cannot.
func TestStoreWithoutMounts(t *testing.T) {
	s, err := Open(Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	id := ingest(t, s, "a", "a")
	if _, err := s.Mount(t.Context(), []digest.Digest{id}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mount = %v, want failed precondition", err)
	}
	if err := s.Remove(t.Context(), id); err != nil || s.Has(id) {
		t.Errorf("remove: %v", err)
	}
}
