package image

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// What an answer says of its coding is not believed: digests are of the bytes as sent.
func TestContentEncodingIsIgnored(t *testing.T) {
	l := gzipped("one")
	zip := func(raw []byte) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		w.Write(raw)
		w.Close()
		return buf.Bytes()
	}
	zstandard := func(raw []byte) []byte {
		w, _ := zstd.NewWriter(nil)
		return w.EncodeAll(raw, nil)
	}
	for name, c := range map[string]struct {
		header string
		sent   []byte
		ok     bool
	}{
		"raw, said to be gzip":    {"gzip", l.blob, true},
		"raw, said to be zstd":    {"zstd", l.blob, true},
		"raw, said to be unknown": {"x-secret", l.blob, true},
		"gzip":                    {"gzip", zip(l.blob), false},
		"zstd":                    {"zstd", zstandard(l.blob), false},
		"gzip in zstd":            {"gzip, zstd", zstandard(zip(l.blob)), false},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			h.push("app", "v1", nil, l)
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, l) {
					w.Header().Set("Content-Encoding", c.header)
					w.Write(c.sent)
				}
				return isBlob(r, l)
			})
			_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
			if (err == nil) != c.ok || err != nil && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("error = %v, want success: %v", err, c.ok)
			}
		})
	}
}
