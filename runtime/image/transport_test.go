package image

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
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
