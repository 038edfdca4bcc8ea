package erofs

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
)

// applyLimits keep what a tar claims to hold small enough to be extracted.
var applyLimits = Limits{Entries: 200, Metadata: 1 << 16, Sparse: 1 << 20}

// whiteout is a line of a whiteout, of which nothing but its being there is seen.
var whiteout = regexp.MustCompile(`^mode 20.* device 0:0$`)

// asSeen leaves of a tree what can be compared.
func asSeen(lines map[string]string) map[string]string {
	for p, line := range lines {
		if whiteout.MatchString(line) {
			lines[p] = "whiteout"
		}
	}
	return withoutDirTimes(lines)
}

// applyBoth gives the same bytes to the writer and to containerd, and returns the image that
// the writer has made of them, "" if it refuses them: with the kinds of error that it may.
// Where both take them, the image shows what containerd has extracted.
func applyBoth(t *testing.T, in []byte) (img string, compared bool) {
	t.Helper()
	img = filepath.Join(t.TempDir(), "image")
	out, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := Write(t.Context(), out, bytes.NewReader(in), Options{Limits: applyLimits}); err != nil {
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) {
			t.Fatalf("write: %v", err)
		}
		return "", false
	}
	d := t.TempDir()
	if _, err := archive.Apply(t.Context(), d, bytes.NewReader(in), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)); err != nil {
		return img, false
	}
	compare(t, asSeen(snapshot(t, attach(t, img))), asSeen(snapshot(t, d)))
	if t.Failed() {
		t.Fatalf("%q\n%s", in[:min(len(in), 2048)], listing(in))
	}
	return img, true
}

// FuzzApply: any bytes at all.
func FuzzApply(f *testing.F) {
	f.Add(makeTar(f, file("a/b", "x"), symlink("l", "a"), link("h", "a/b"), file("l/.wh.x", ""), file("a/.wh..wh..opq", "")))
	f.Add(makeTar(f, everything()[:12]...))
	for _, seed := range extractSeeds {
		f.Add(scriptTar([]byte(seed)))
	}
	f.Fuzz(func(t *testing.T, in []byte) { applyBoth(t, in) })
}
