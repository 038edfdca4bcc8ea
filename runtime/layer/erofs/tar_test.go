package erofs

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

// toTar writes the tar of an image that is in a file.
func toTar(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	i, err := Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := i.WriteTar(t.Context(), &out, Limits{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What GNU tar extracts of the tar that is made of an image is what the kernel shows of
// the image.
func TestTarOfImageIsTheImage(t *testing.T) {
	img, _ := image(t, bytes.NewReader(makeTar(t, everything()...)), Options{})
	want := snapshot(t, mount(t, img))
	if len(want) < 230 {
		t.Fatalf("only %d files", len(want))
	}
	compare(t, snapshot(t, extract(t, toTar(t, img))), want)
}

// Deletions survive the way through a tar: the second image shows what the first does, and
// from then on the tar does not change any more.
func TestTarKeepsDeletions(t *testing.T) {
	img, _ := image(t, bytes.NewReader(makeTar(t, append(everything(),
		file("gone/.wh.file", ""), file(".wh.top", ""),
		dir("opaque"), file("opaque/.wh..wh..opq", ""), file("opaque/own", "own"),
		file(".wh.replaced", ""), file("replaced/x", "x"),
		file(".wh..wh..opq", ""),
	)...)), Options{})
	first := toTar(t, img)
	again, _ := image(t, bytes.NewReader(first), Options{})
	got, want := mount(t, again), mount(t, img)
	compare(t, snapshot(t, got), snapshot(t, want))
	for _, dir := range []string{got, want} {
		if !isWhiteout(t, dir+"/gone/file") || !isWhiteout(t, dir+"/top") || !isOpaque(dir+"/opaque") || !isOpaque(dir+"/replaced") || !isOpaque(dir) {
			t.Errorf("%s: marks are missing", dir)
		}
	}
	if !bytes.Equal(toTar(t, again), first) {
		t.Error("the tar of the second image is another")
	}
}

func TestTarOfTornImage(t *testing.T) {
	img, _ := image(t, bytes.NewReader(makeTar(t, everything()...)), Options{})
	raw, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	whole := openImage(t, raw)
	clear(raw[int(whole.meta)*BlockSize:])
	if err := whole.WriteTar(t.Context(), &bytes.Buffer{}, Limits{}); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("error = %v, want data loss", err)
	}
	if err := whole.CheckTree(Limits{}); !errors.Is(err, errdefs.ErrDataLoss) {
		t.Errorf("check: error = %v, want data loss", err)
	}
}
