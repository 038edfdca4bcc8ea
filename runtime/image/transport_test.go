package image

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

// What hosts.toml has for a mirror is not for the next endpoint, which the mirror
// redirects to; the pull's credential is for both.
func TestRedirectBetweenEndpoints(t *testing.T) {
	l := gzipped("one")
	for name, auth := range map[string]*Auth{"none": nil, "for both": {Username: "me", Password: "secret"}} {
		t.Run(name, func(t *testing.T) {
			mirror, own := newHub(t), newHub(t)
			mirror.push("app", "v1", nil, l)
			own.push("app", "v1", nil, l)
			var leaked atomic.Value
			var keyed atomic.Bool
			own.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				for _, name := range []string{"X-Api-Key", "Cookie", "Authorization"} {
					if v := r.Header.Get(name); strings.Contains(v, "mirror") {
						leaked.Store(name + ": " + v)
					}
				}
				if auth == nil || r.Header.Get("Authorization") == basic("me", "secret") {
					return false
				}
				w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			mirror.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				keyed.Store(r.Header.Get("X-Api-Key") == "mirror" && r.Header.Get("Authorization") == "Bearer mirror")
				if isBlob(r, l) {
					http.Redirect(w, r, own.URL+r.URL.Path, http.StatusTemporaryRedirect)
				}
				return isBlob(r, l)
			})
			k := newKit(t, func(o *Options) {
				o.HostsDir = hosts(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]\n[host.%q.header]\n%s",
					own.URL, mirror.URL, mirror.URL, "X-Api-Key = \"mirror\"\nCookie = \"of=mirror\"\nAuthorization = \"Bearer mirror\"\n"))
			})
			if _, err := k.Pull(t.Context(), "registry.example/app:v1", auth); err != nil {
				t.Fatal(err)
			}
			if v := leaked.Load(); v != nil {
				t.Errorf("the registry saw the mirror's %s", v)
			}
			if !keyed.Load() || k.Status().Failovers != 0 {
				t.Errorf("the mirror did not see its headers, or did not serve: %+v", k.Status())
			}
		})
	}
}

// drip sends a layer a byte at a time, ten a second.
func drip(l layer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(l.blob)))
		for i := 0; r.Context().Err() == nil && i < len(l.blob); i++ {
			w.Write(l.blob[i : i+1])
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// A registry that drips does not keep the slot that another one waits for.
func TestDrippingRegistryIsDropped(t *testing.T) {
	dripping, h := newHub(t), newHub(t)
	k := newKit(t, func(o *Options) { o.PerRegistry, o.Total, o.Stall = 1, 1, time.Second })
	l := gzipped(noise(64 << 10))
	dripping.push("app", "v1", nil, l)
	h.push("app", "v1", nil, gzipped("one"))
	arrived := make(chan struct{}, 1)
	dripping.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, l) {
			arrived <- struct{}{}
			drip(l)(w, r)
		}
		return isBlob(r, l)
	})
	done := make(chan error, 1)
	go func() { _, err := k.Pull(t.Context(), dripping.host+"/app:v1", nil); done <- err }()
	<-arrived
	begin := time.Now()
	k.mustPull(t, h.host+"/app:v1")
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the other registry was waited for %s", took)
	}
	if err := <-done; !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "bytes in 1s") {
		t.Errorf("error = %v, want unavailable for want of bytes", err)
	}
}

// Only time that is spent in waiting for bytes counts against a registry.
func TestSlowReaderIsNoDrip(t *testing.T) {
	const limit = 300 * time.Millisecond
	w := newWatch(t.Context(), limit)
	b := &body{io.NopCloser(strings.NewReader(strings.Repeat("a", 30))), w, &counters{}}
	defer b.Close()
	for range 30 { // less than is wanted of the line in as long a time
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(limit / 10)
	}
	if err := w.ctx.Err(); err != nil {
		t.Errorf("the request was cut: %v", err)
	}
}

// A layer that is too large as it comes is not asked for.
func TestHugeBlobIsNotFetched(t *testing.T) {
	h, k := newHub(t), newKit(t, func(o *Options) { o.MaxLayer = 1 << 20 })
	p := h.push("app", "v1", func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size = 3 << 20 }, gzipped("one"))
	_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("error = %v, want resource exhausted", err)
	}
	for _, d := range h.fetched() {
		if d == p.doc.Layers[0].Digest.String() {
			t.Error("the layer was fetched")
		}
	}
	k.wantEmpty(t)
}
