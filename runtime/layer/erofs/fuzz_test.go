package erofs

import (
	"bytes"
	"io/fs"
	"testing"

	goerofs "github.com/erofs/go-erofs"
)

// FuzzWrite feeds anything to the writer: it must answer an error, or make an image
// that another reader can walk through.
func FuzzWrite(f *testing.F) {
	f.Add(makeTar(f, file("a/b", "x"), symlink("l", "a"), link("h", "a/b"), file("l/.wh.x", ""), file("a/.wh..wh..opq", "")))
	f.Add(makeTar(f, everything()[:12]...))
	f.Add(gnuSparse(1 << 20))
	f.Fuzz(func(t *testing.T, in []byte) {
		out := &memory{}
		o := Options{Limits: Limits{Entries: 1000, Metadata: 1 << 16, Sparse: 4 << 20}}
		res, err := Write(t.Context(), out, bytes.NewReader(in), o)
		if err != nil {
			return
		}
		if err := Check(bytes.NewReader(out.b), res.Size); err != nil || int64(len(out.b)) != res.Size {
			t.Fatalf("check: %v, %d bytes of %d", err, len(out.b), res.Size)
		}
		fsys, err := goerofs.Open(bytes.NewReader(out.b))
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		err = fs.WalkDir(fsys, ".", func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			_, err = fs.ReadFile(fsys, p)
			return err
		})
		if err != nil {
			t.Fatalf("walk: %v", err)
		}
	})
}
