package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// noise does not compress away, so that a blob is longer than any buffer.
func noise(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		b.WriteString(digest.FromString(strconv.Itoa(i)).Encoded())
	}
	return b.String()
}

func isBlob(r *http.Request, l layer) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, digest.FromBytes(l.blob).String())
}

// A passing fault of the registry is not seen by the caller; one that stays fails the
// pull with its kind, and nothing is left.
func TestRegistryFaults(t *testing.T) {
	big := gzipped(noise(1 << 20))
	cut := func(w http.ResponseWriter, r *http.Request) { // half of what was asked for, then a reset
		start := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &start)
		w.Header().Set("Content-Length", strconv.Itoa(len(big.blob)-start))
		if start > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(big.blob)-1, len(big.blob)))
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(big.blob[start : start+(len(big.blob)-start)/2])
		panic(http.ErrAbortHandler)
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	body := func(raw []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Write(raw) }
	}
	all := func(*http.Request) bool { return true }
	blob := func(r *http.Request) bool { return isBlob(r, big) }
	wrong := append([]byte(nil), big.blob...)
	wrong[len(wrong)/2] ^= 1
	for name, c := range map[string]struct {
		of    func(*http.Request) bool
		do    http.HandlerFunc
		times int64 // how often the fault strikes before the registry is well
		kind  error // nil: the pull succeeds
	}{
		"429 passes":         {all, status(429), 4, nil},
		"500 passes":         {all, status(500), 3, nil},
		"500 on blob passes": {blob, status(500), 3, nil},
		"cut passes":         {blob, cut, 3, nil},
		"503 stays":          {all, status(503), 1 << 30, errdefs.ErrUnavailable},
		"503 on blob stays":  {blob, status(503), 1 << 30, errdefs.ErrUnavailable},
		"cut stays":          {blob, cut, 1 << 30, errdefs.ErrUnavailable},
		"403":                {all, status(403), 1 << 30, errdefs.ErrPermissionDenied},
		"404":                {all, status(404), 1 << 30, errdefs.ErrNotFound},
		"404 of blob":        {blob, status(404), 1 << 30, errdefs.ErrNotFound},
		"short blob":         {blob, body(big.blob[:1000]), 1 << 30, errdefs.ErrUnavailable},
		"trailing byte":      {blob, body(append(big.blob[:len(big.blob):len(big.blob)], 0)), 1 << 30, errdefs.ErrFailedPrecondition},
		"flipped bit":        {blob, body(wrong), 1 << 30, errdefs.ErrFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			h.push("app", "v1", nil, gzipped("small"), big)
			var struck atomic.Int64
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if !c.of(r) || struck.Add(1) > c.times {
					return false
				}
				c.do(w, r)
				return true
			})
			_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
			if !errors.Is(err, c.kind) || (err == nil) != (c.kind == nil) {
				t.Fatalf("error = %v, want %v", err, c.kind)
			}
			if c.kind != nil {
				k.wantEmpty(t)
			}
			if n := struck.Load(); n > 60 {
				t.Errorf("%d requests were made", n)
			}
		})
	}
}

// Small documents are checked as layers are.
func TestDocumentsAreVerified(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"))
	for name, store := range map[string]func(spoil func([]byte) []byte){
		"config": func(spoil func([]byte) []byte) {
			key := "app@" + p.config.Digest.String()
			h.blobs[key] = spoil(h.blobs[key])
		},
		"manifest": func(spoil func([]byte) []byte) {
			key := "app@" + p.manifest.Digest.String()
			h.manifests[key] = manifest{h.manifests[key].mediaType, spoil(h.manifests[key].raw)}
		},
	} {
		store(func(raw []byte) []byte { return []byte(strings.Replace(string(raw), "sha256", "sha255", 1)) })
		if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another digest") {
			t.Errorf("%s: error = %v, want the digest's", name, err)
		}
		store(func(raw []byte) []byte { return []byte(strings.Replace(string(raw), "sha255", "sha256", 1)) })
	}
	k.wantEmpty(t)
	k.mustPull(t, h.host+"/app:v1")
}

func TestHostileImages(t *testing.T) {
	type change = func(*ocispec.Image, *ocispec.Manifest)
	for name, c := range map[string]struct {
		spoil change
		kind  error
	}{
		"too few diff ids": {func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs = i.RootFS.DiffIDs[:1] }, errdefs.ErrFailedPrecondition},
		"too many diff ids": {func(i *ocispec.Image, _ *ocispec.Manifest) {
			i.RootFS.DiffIDs = append(i.RootFS.DiffIDs, i.RootFS.DiffIDs[0])
		}, errdefs.ErrFailedPrecondition},
		"other diff id": {func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs[1] = digest.FromString("x") }, errdefs.ErrFailedPrecondition},
		"unknown digest": {func(_ *ocispec.Image, m *ocispec.Manifest) {
			m.Layers[0].Digest = "md5:d41d8cd98f00b204e9800998ecf8427e"
		}, errdefs.ErrFailedPrecondition},
		"path as diff id": {func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs[0] = "sha256:../../../etc/passwd" }, errdefs.ErrFailedPrecondition},
		"sha512 diff id":  {func(i *ocispec.Image, _ *ocispec.Manifest) { i.RootFS.DiffIDs[0] = digest.SHA512.FromString("x") }, errdefs.ErrFailedPrecondition},
		"negative size":   {func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size = -1 }, errdefs.ErrFailedPrecondition},
		"size too small":  {func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size-- }, errdefs.ErrFailedPrecondition},
		"size too large":  {func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].Size++ }, errdefs.ErrFailedPrecondition},
		"foreign layer": {func(_ *ocispec.Image, m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}, errdefs.ErrNotImplemented},
		"encrypted layer":    {func(_ *ocispec.Image, m *ocispec.Manifest) { m.Layers[0].MediaType += "+encrypted" }, errdefs.ErrNotImplemented},
		"other architecture": {func(i *ocispec.Image, _ *ocispec.Manifest) { i.Architecture = "s390x" }, errdefs.ErrFailedPrecondition},
		"other system":       {func(i *ocispec.Image, _ *ocispec.Manifest) { i.OS = "windows" }, errdefs.ErrFailedPrecondition},
		"calls itself index": {func(_ *ocispec.Image, m *ocispec.Manifest) { m.MediaType = ocispec.MediaTypeImageIndex }, errdefs.ErrFailedPrecondition},
		"huge config":        {func(i *ocispec.Image, _ *ocispec.Manifest) { i.Author = noise(maxConfig) }, errdefs.ErrFailedPrecondition},
		"bomb":               {nil, errdefs.ErrResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, func(o *Options) { o.MaxLayer = 1 << 20 })
			layers := []layer{gzipped("zero"), gzipped("one")}
			if name == "bomb" {
				layers = append(layers, gzipped(strings.Repeat("\x00", 1<<20)))
			}
			h.push("app", "v1", c.spoil, layers...)
			if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errors.Is(err, c.kind) {
				t.Errorf("error = %v, want %v", err, c.kind)
			}
			k.wantEmpty(t)
		})
	}
}

func TestHostileManifests(t *testing.T) {
	deep := func(h *hub) any {
		d := h.push("app", "", nil, gzipped("one")).manifest
		for range maxNesting {
			d = h.manifest("app", "", ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{d}})
		}
		return ocispec.Index{Manifests: []ocispec.Descriptor{d}}
	}
	for name, c := range map[string]struct {
		mediaType string
		doc       func(*hub) any
		kind      error
	}{
		"schema 1":      {dockerSchema1JW, func(*hub) any { return map[string]any{"schemaVersion": 1, "fsLayers": []string{}} }, errdefs.ErrNotImplemented},
		"schema 1 lies": {dockerManifest, func(*hub) any { return map[string]any{"schemaVersion": 1, "fsLayers": []string{}} }, errdefs.ErrNotImplemented},
		"both":          {ocispec.MediaTypeImageIndex, func(*hub) any { return map[string]any{"manifests": []string{}, "layers": []string{}} }, errdefs.ErrFailedPrecondition},
		"neither":       {ocispec.MediaTypeImageManifest, func(*hub) any { return map[string]any{} }, errdefs.ErrFailedPrecondition},
		"no JSON":       {ocispec.MediaTypeImageManifest, func(*hub) any { return json.RawMessage(`"text"`) }, errdefs.ErrFailedPrecondition},
		"no platform":   {ocispec.MediaTypeImageIndex, func(*hub) any { return ocispec.Index{Manifests: []ocispec.Descriptor{}} }, errdefs.ErrNotFound},
		"too deep":      {ocispec.MediaTypeImageIndex, deep, errdefs.ErrFailedPrecondition},
		"huge":          {ocispec.MediaTypeImageManifest, func(*hub) any { return noise(maxManifest) }, errdefs.ErrFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			h.manifest("app", "v1", c.mediaType, c.doc(h))
			if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errors.Is(err, c.kind) {
				t.Errorf("error = %v, want %v", err, c.kind)
			}
			k.wantEmpty(t)
		})
	}
}

func TestFullDisk(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	k.layers.ingest = func() error { return &os.PathError{Op: "write", Path: "blob", Err: syscall.ENOSPC} }
	h.push("app", "v1", nil, gzipped("one"))
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsResourceExhausted(err) {
		t.Errorf("error = %v, want resource exhausted", err)
	}
	k.wantEmpty(t)
}

func TestPanicIsAnError(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	k.layers.ingest = func() error { panic("hostile layer") }
	h.push("app", "v1", nil, gzipped("one"))
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsInternal(err) {
		t.Errorf("error = %v, want internal", err)
	}
	k.wantEmpty(t)
	in := inflated{from: nil, left: 1, limit: 1}
	if _, err := in.Read(make([]byte, 1)); !errdefs.IsInternal(err) {
		t.Errorf("error = %v, want internal", err)
	}
}

func TestStalledPullFails(t *testing.T) {
	h, k := newHub(t), newKit(t, func(o *Options) { o.Stall = time.Second })
	l := gzipped(noise(1 << 20))
	h.push("app", "v1", nil, l)
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, l) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(l.blob)))
		w.Write(l.blob[:1000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no byte for") {
		t.Errorf("error = %v, want unavailable for want of bytes", err)
	}
	k.wantEmpty(t)
}

func TestSlowDiskIsNoStall(t *testing.T) {
	h, k := newHub(t), newKit(t, func(o *Options) { o.Stall = time.Second })
	k.layers.ingest = func() error { time.Sleep(2 * time.Second); return nil }
	h.push("app", "v1", nil, gzipped("one"))
	k.mustPull(t, h.host+"/app:v1")
}

func TestErrorsHideSignedURLs(t *testing.T) {
	h, store, k := newHub(t), newHub(t), newKit(t, nil)
	l := gzipped("one")
	h.push("app", "v1", nil, l)
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, l) {
			http.Redirect(w, r, store.URL+"/bucket?signature=secret", http.StatusTemporaryRedirect)
		}
		return isBlob(r, l)
	})
	store.misbehave(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true })
	_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
	if !errdefs.IsPermissionDenied(err) || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "/bucket") {
		t.Errorf("error = %v, want it without the signature", err)
	}
	store.Close()
	if _, err = k.Pull(t.Context(), h.host+"/app:v1", nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error = %v, want it without the signature", err)
	}
}

func TestUnreachableRegistry(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.Close()
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("error = %v, want unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Pull(ctx, h.host+"/app:v1", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the caller's", err)
	}
}
