package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// benchLayer is a tar of about 100 MB in 2000 files of 1 KB to 100 KB, or the file that
// CRICKET_BENCH_TAR names.
func benchLayer(b *testing.B) []byte {
	b.Helper()
	if file := os.Getenv("CRICKET_BENCH_TAR"); file != "" {
		in, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		return in
	}
	r := rand.New(rand.NewSource(1))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	body := make([]byte, 100<<10)
	for i := range 2000 {
		r.Read(body)
		size := 1<<10 + r.Intn(99<<10)
		h := &tar.Header{Name: fmt.Sprintf("usr/lib/d%d/f%d", i%50, i), Mode: 0o644, Size: int64(size)}
		if err := w.WriteHeader(h); err != nil {
			b.Fatal(err)
		}
		w.Write(body[:size])
	}
	w.Close()
	return buf.Bytes()
}

// BenchmarkIngest includes the sync to the disk.
func BenchmarkIngest(b *testing.B) {
	in := benchLayer(b)
	id := digest.FromBytes(in)
	s := open(b, Options{})
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Ingest(context.Background(), id, bytes.NewReader(in)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Remove(context.Background(), id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkHash is the bound that SHA-256 sets.
func BenchmarkHash(b *testing.B) {
	in := benchLayer(b)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		digest.FromBytes(in)
	}
}

// BenchmarkConvert is the writer alone, without hash and disk.
func BenchmarkConvert(b *testing.B) {
	in := benchLayer(b)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := erofs.Write(context.Background(), nowhere{}, bytes.NewReader(in), erofs.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

var _ io.WriterAt = nowhere{}
