package erofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

func writeMemory(t testing.TB, in []byte) []byte {
	t.Helper()
	out := &memory{}
	if _, err := Write(t.Context(), out, bytes.NewReader(in), Options{}); err != nil {
		t.Fatal(err)
	}
	return out.b
}

func openImage(t testing.TB, b []byte) *Image {
	t.Helper()
	i, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestMergeIsStable(t *testing.T) {
	low := openImage(t, writeMemory(t, makeTar(t, everything()...)))
	up := openImage(t, writeMemory(t, makeTar(t, file("x", "y"), file(".wh.z", ""))))
	var first []byte
	for range 3 {
		out := &memory{}
		res, err := Merge(t.Context(), out, []*Image{low, up}, MergeOptions{Note: []byte("note")})
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(out.b)) != res.Size {
			t.Errorf("%d bytes of %d", len(out.b), res.Size)
		}
		note, disk, err := ReadNote(bytes.NewReader(out.b), res.Size)
		want := res.Size + int64(low.Blocks()+up.Blocks())*BlockSize
		if err != nil || string(note) != "note" || disk != want {
			t.Errorf("note %q, disk of %d bytes, want %d, %v", note, disk, want, err)
		}
		if first != nil && !bytes.Equal(first, out.b) {
			t.Error("equal layers make different metadata")
		}
		first = out.b
	}
}

func TestMergeLimits(t *testing.T) {
	layer := openImage(t, writeMemory(t, makeTar(t, file("a", "x"), file("b", "y"))))
	_, err := Merge(t.Context(), &memory{}, []*Image{layer, layer}, MergeOptions{Limits: Limits{Entries: 3}})
	if !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Merge(ctx, &memory{}, []*Image{layer}, MergeOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestTornImages damages an image byte by byte: reading it answers an error or a tree.
func TestTornImages(t *testing.T) {
	whole := writeMemory(t, makeTar(t, dir("d"), file("d/f", "x"), symlink("s", "d"), link("h", "d/f"),
		withXattr(file("x", "x"), "user.a", "b", "security.capability", "c")))
	meta := int(openImage(t, whole).meta) * BlockSize
	if _, err := Open(bytes.NewReader(whole[:BlockSize]), BlockSize); !errdefs.IsDataLoss(err) {
		t.Error(err)
	}
	refused := 0
	for at := meta; at < meta+1024; at++ {
		for _, v := range []byte{0, 1, 0x7f, 0xff} {
			b := slices.Clone(whole)
			b[at] = v
			_, err := Merge(t.Context(), &memory{}, []*Image{openImage(t, b)}, MergeOptions{})
			if err == nil {
				continue
			}
			refused++
			if !errdefs.IsDataLoss(err) && !errdefs.IsResourceExhausted(err) && !errdefs.IsInvalidArgument(err) {
				t.Fatalf("byte %d is %d: %v", at, v, err)
			}
		}
	}
	if refused < 100 {
		t.Errorf("only %d damages were seen", refused)
	}
}

// FuzzRead merges anything that has a superblock.
func FuzzRead(f *testing.F) {
	f.Add(writeMemory(f, makeTar(f, dir("d"), file("d/f", "x"), symlink("s", "d"), link("h", "d/f"))))
	f.Add(writeMemory(f, makeTar(f, withXattr(file("x", "x"), "user.a", "b"), file("o/.wh..wh..opq", ""), file(".wh.y", ""))))
	good := openImage(f, writeMemory(f, makeTar(f, dir("d"), file("d/g", "x"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b)&^(BlockSize-1)]
		if len(b) < 2*BlockSize {
			return
		}
		sb := b[superOffset:BlockSize]
		le := binary.LittleEndian
		sb = superblock(le.Uint16(sb[14:]), 0, uint32(len(b)/BlockSize), le.Uint32(sb[40:]), [16]byte{})
		i, err := Open(bytes.NewReader(append(sb, b[BlockSize:]...)), int64(len(b)))
		if err != nil {
			return
		}
		o := MergeOptions{Limits: Limits{Entries: 10000, Metadata: 1 << 20}}
		out := &memory{}
		if _, err := Merge(t.Context(), out, []*Image{good, i, good}, o); err != nil {
			return
		}
		if _, _, err := ReadNote(bytes.NewReader(out.b), int64(len(out.b))); err != nil {
			t.Fatal(err)
		}
	})
}
