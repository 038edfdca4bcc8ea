package image

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// mirrored makes a store that knows registry.example by the mirrors given, the last of
// which is the registry itself.
func mirrored(t *testing.T, change func(*Options), urls ...string) *kit {
	t.Helper()
	file := fmt.Sprintf("server = %q\n", urls[len(urls)-1])
	for _, u := range urls[:len(urls)-1] {
		file += fmt.Sprintf("[host.%q]\n", u)
	}
	root := hosts(t, "registry.example", file)
	return newKit(t, func(o *Options) {
		o.HostsDir = root
		if change != nil {
			change(o)
		}
	})
}

// TestMirrorsFailOver has a mirror fail in every way it can; the next one serves.
func TestMirrorsFailOver(t *testing.T) {
	l := gzipped(noise(1 << 20))
	flipped := append([]byte(nil), l.blob...)
	flipped[len(flipped)-5] ^= 1 // in gzip's own checksum: the tar is whole
	broken := append([]byte(nil), l.blob...)
	broken[len(broken)/3] ^= 0xff
	other := gzipped("another layer")
	blob := func(do http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r, l) {
				do(w, r)
			}
			return isBlob(r, l)
		}
	}
	send := func(raw []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(raw) }
	}
	status := func(code int, of string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, of) {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(code)
				return true
			}
			return false
		}
	}
	for name, c := range map[string]struct {
		mirror func(http.ResponseWriter, *http.Request) bool
		most   int64 // how often the mirror may be asked for the layer
	}{
		"404":               {status(404, ""), 1},
		"404 of the blob":   {status(404, "/blobs/"), 1},
		"403":               {status(403, ""), 1},
		"500":               {status(500, ""), 2},
		"429 for an hour":   {status(429, ""), 0},
		"503 of the blob":   {status(503, "/blobs/"), 1},
		"another blob":      {blob(send(other.blob)), 2},
		"flipped bit":       {blob(send(flipped)), 1},
		"corrupt":           {blob(send(broken)), 1},
		"longer":            {blob(send(append(l.blob[:len(l.blob):len(l.blob)], 1))), 1},
		"truncated":         {blob(send(l.blob[:len(l.blob)/2])), 2},
		"nothing":           {blob(send(nil)), 1},
		"hangs":             {blob(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 1},
		"hangs in the blob": {blob(hang(l, 5000)), 1},
		"breaks":            {blob(breakAt(l, 5000)), 2},
		"drips":             {blob(drip(l)), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad, good := newHub(t), newHub(t)
			bad.push("app", "v1", nil, l)
			p := good.push("app", "v1", nil, l)
			var asked atomic.Int64
			bad.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlob(r, l) {
					asked.Add(1)
				}
				return c.mirror(w, r)
			})
			k := mirrored(t, func(o *Options) { o.Stall = 2 * time.Second }, bad.URL, good.URL, "http://127.0.0.1:1")
			img := k.mustPull(t, "registry.example/app:v1")
			if img.ID != p.id || !k.layers.Has(l.diffID()) {
				t.Errorf("image = %+v", img)
			}
			if n := asked.Load(); n > c.most {
				t.Errorf("the mirror was asked %d times for the layer, want at most %d", n, c.most)
			}
			if k.Status().Failovers == 0 {
				t.Error("no fail-over was counted")
			}
		})
	}
}

// hang sends so much of a layer and then nothing.
func hang(l layer, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(l.blob)))
		w.Write(l.blob[:n])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
}

// breakAt resets the connection after so much of a layer, wherever the request begins.
func breakAt(l layer, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from := rangeOf(r)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(l.blob)-1, len(l.blob)))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(l.blob)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(l.blob[from:min(from+n, len(l.blob))])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// rangeOf is where a request wants to begin.
func rangeOf(r *http.Request) (from int) {
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
	return from
}

// A mirror that has another manifest than the digest it tells is passed over, and the
// reference resolved without it.
func TestMirrorWithWrongManifest(t *testing.T) {
	bad, good := newHub(t), newHub(t)
	p := good.push("app", "v1", nil, gzipped("one"))
	q := bad.push("app", "v1", nil, gzipped("two"))
	key := "app@" + q.manifest.Digest.String()
	bad.manifests[key] = manifest{bad.manifests[key].mediaType, []byte(strings.Replace(string(bad.manifests[key].raw), "sha256", "sha255", 1))}
	bad.manifests["app@"+p.manifest.Digest.String()] = bad.manifests[key]
	k := mirrored(t, nil, bad.URL, good.URL)
	for _, ref := range []string{":v1", "@" + p.manifest.Digest.String()} {
		if img := k.mustPull(t, "registry.example/app"+ref); img.ID != p.id {
			t.Errorf("%s: id = %s, want the good one's", ref, img.ID)
		}
		if err := k.Remove(t.Context(), p.id.String()); err != nil {
			t.Fatal(err)
		}
	}
}

// If all fail, the registry's own answer counts, and the mirrors' are in the text.
func TestRegistryHasTheLastWord(t *testing.T) {
	mirror, own := newHub(t), newHub(t)
	answer := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	k := mirrored(t, nil, "http://127.0.0.1:1", mirror.URL, own.URL)
	for _, c := range []struct {
		mirror, own int
		want        func(error) bool
	}{
		{404, 403, errdefs.IsPermissionDenied},
		{503, 404, errdefs.IsNotFound},
		{404, 503, errdefs.IsUnavailable},
	} {
		mirror.misbehave(answer(c.mirror))
		own.misbehave(answer(c.own))
		_, err := k.Pull(t.Context(), "registry.example/app:v1", nil)
		if !c.want(err) || !strings.Contains(err.Error(), mirror.host) || !strings.Contains(err.Error(), "127.0.0.1:1") {
			t.Errorf("mirror %d, registry %d: error = %v", c.mirror, c.own, err)
		}
	}
}

// A mirror that takes connections and says nothing is waited for once, not with every
// request.
func TestSilentMirrorIsAskedOnce(t *testing.T) {
	mute, own := newHub(t), newHub(t)
	own.push("app", "v1", nil, gzipped("one"), gzipped("two"), gzipped("three"))
	var asked atomic.Int64
	mute.misbehave(func(_ http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		<-r.Context().Done()
		return true
	})
	k := mirrored(t, func(o *Options) { o.Stall = 2 * time.Second }, mute.URL, own.URL)
	k.mustPull(t, "registry.example/app:v1")
	if n := asked.Load(); n != 1 {
		t.Errorf("the mirror was asked %d times", n)
	}
}

// A push-only endpoint is not asked.
func TestEndpointThatMayNotPull(t *testing.T) {
	push, own := newHub(t), newHub(t)
	own.push("app", "v1", nil, gzipped("one"))
	push.push("app", "v1", nil, gzipped("one"))
	k := newKit(t, func(o *Options) {
		o.HostsDir = hosts(t, "registry.example", fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"push\"]\n", own.URL, push.URL))
	})
	k.mustPull(t, "registry.example/app:v1")
	if len(push.log) > 0 {
		t.Errorf("requests %v went to an endpoint for pushes", push.log)
	}
}
