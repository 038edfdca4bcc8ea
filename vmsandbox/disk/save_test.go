package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSavedDiskIsLoaded(t *testing.T) {
	s := open(t, Options{Bytes: 64 << 20})
	path := take(t, s, "m1", "rw0")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 3<<20+5000)
	_, _ = rand.Read(data)
	clear(data[1<<20 : 2<<20])
	for _, at := range []int64{20 << 20, 40<<20 + 512, 64<<20 - int64(len(data))} {
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	var saved bytes.Buffer
	if err := s.Save(t.Context(), "m1", "rw0", &saved); err != nil {
		t.Fatal(err)
	}
	if n := saved.Len(); n > 4*len(data) {
		t.Errorf("%d bytes are saved, of three times %d with a third of zeros", n, len(data))
	}
	copied, err := s.Load(t.Context(), "m2", "rw0", bytes.NewReader(saved.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	is, err := os.ReadFile(copied)
	if err != nil || !bytes.Equal(was, is) {
		t.Errorf("the disk is another: %d and %d bytes, %v", len(was), len(is), err)
	}
	if _, err := s.Load(t.Context(), "m2", "rw0", bytes.NewReader(saved.Bytes())); !errdefs.IsAlreadyExists(err) {
		t.Errorf("loaded twice: %v", err)
	}
}

func TestSavedDiskIsNotTrusted(t *testing.T) {
	s := open(t, Options{Bytes: 32 << 20})
	take(t, s, "m1", "rw0")
	var buf bytes.Buffer
	if err := s.Save(t.Context(), "m1", "rw0", &buf); err != nil {
		t.Fatal(err)
	}
	good := buf.Bytes()
	piece := func(at, n uint64) []byte {
		return append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte(savedHead), at), n), make([]byte, 4096)...)
	}
	for name, bad := range map[string][]byte{
		"empty":        {},
		"head":         append([]byte("x"), good[1:]...),
		"cut off":      good[:len(good)-1],
		"in a piece":   good[:len(savedHead)+pieceHead+7],
		"no end":       good[:len(good)-pieceHead],
		"long piece":   piece(0, maxPiece+1),
		"huge piece":   piece(0, 1<<63),
		"outside":      piece(32<<20-512, 4096),
		"far outside":  piece(1<<63, 4096),
		"backwards":    append(piece(8192, 4096), piece(4096, 4096)[len(savedHead):]...),
		"overlapping":  append(piece(8192, 4096), piece(8192, 4096)[len(savedHead):]...),
		"ends early":   piece(4096, 0),
		"another size": piece(64<<20, 0),
	} {
		if _, err := s.Load(t.Context(), "m2", "rw0", bytes.NewReader(bad)); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %v", name, err)
		}
		path, _ := s.Path("m2", "rw0")
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s: a disk is left: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Save(ctx, "m1", "rw0", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("save without time: %v", err)
	}
	if _, err := s.Load(ctx, "m2", "rw0", bytes.NewReader(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("load without time: %v", err)
	}
}
