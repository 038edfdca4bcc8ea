package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// headers makes a layer of entries without content.
func headers(list ...tar.Header) layer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range list {
		h.Mode, h.Format = 0o644, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
	}
	_ = w.Close()
	return layer{buf.Bytes(), gzipBytes(buf.Bytes()), ocispec.MediaTypeImageLayerGzip}
}

// blobOf is a layer whose blob is not what its diff id promises.
func blobOf(blob []byte) layer {
	return layer{named("file", "x").tar, blob, ocispec.MediaTypeImageLayerGzip}
}

// TestHostileLayers pulls images with one evil layer above a good one. Each fails with
// its kind and a text that says why, and the disk is as it was, where another image
// shares the good layer.
func TestHostileLayers(t *testing.T) {
	const limit = 8 << 20
	good := named("good", noise(100<<10))
	x := named("file", noise(50<<10))
	raw := bytes.Clone(gzipBytes(x.tar))
	broken := bytes.Clone(raw)
	broken[len(broken)-6] ^= 1 // the sum at the end
	middle := bytes.Clone(raw)
	copy(middle[len(raw)/2:], "\x00\xff\x00\xff\x00\xff\x00\xff")
	framed := zstdBytes(x.tar)
	zstdBroken := bytes.Clone(framed)
	zstdBroken[len(framed)/2] ^= 0xff
	zeros := bytes.NewReader(make([]byte, limit+1))
	var bomb, zbomb bytes.Buffer
	gw, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	_, _ = io.Copy(gw, zeros)
	_ = gw.Close()
	zw, _ := zstd.NewWriter(&zbomb)
	_, _ = zw.Write(make([]byte, limit+1))
	_ = zw.Close()
	precondition, invalid, exhausted := errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument, errdefs.ErrResourceExhausted
	for name, c := range map[string]struct {
		evil layer
		kind error
		text string
	}{
		"path traversal":        {headers(tar.Header{Name: "../../etc/cron.d/x", Typeflag: tar.TypeReg}), invalid, "leads out of the root"},
		"hard link to outside":  {headers(tar.Header{Name: "x", Linkname: "../../../etc/passwd", Typeflag: tar.TypeLink}), invalid, "leads out of the root"},
		"hard link, absolute":   {headers(tar.Header{Name: "x", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}), invalid, "/etc/passwd"},
		"hard link over a link": {headers(tar.Header{Name: "l", Linkname: "/etc", Typeflag: tar.TypeSymlink}, tar.Header{Name: "x", Linkname: "l/passwd", Typeflag: tar.TypeLink}), invalid, "l/passwd"},
		"loop of links":         {headers(tar.Header{Name: "l", Linkname: "l", Typeflag: tar.TypeSymlink}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg}), invalid, "symbolic links"},
		"forged mark":           {headers(tar.Header{Name: "d", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"}}), invalid, "trusted.overlay.redirect"},
		"smuggled whiteout":     {headers(tar.Header{Name: "bin", Typeflag: tar.TypeChar}), invalid, `"bin"`},
		"gzip cut off":          {blobOf(raw[:len(raw)-20]), precondition, "unexpected EOF"},
		"gzip with a bad sum":   {blobOf(broken), precondition, "checksum"},
		"gzip damaged":          {blobOf(middle), precondition, "inflate layer"},
		"gzip and garbage":      {layer{x.tar, append(bytes.Clone(raw), "garbage behind"...), ocispec.MediaTypeImageLayerGzip}, precondition, "inflate layer"},
		"zstd cut off":          {blobOf(framed[:len(framed)-20]), precondition, "inflate layer"},
		"zstd damaged":          {blobOf(zstdBroken), precondition, "inflate layer"},
		"zstd of a huge window": {blobOf([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00}), precondition, "window"},
		"tar cut off":           {func() layer { l := named("f", noise(9000)); l.tar = l.tar[:5000]; l.blob = l.tar; return l }(), invalid, "unexpected EOF"},
		"no tar":                {layer{[]byte(noise(9000)), []byte(noise(9000)), ocispec.MediaTypeImageLayer}, invalid, "invalid tar header"},
		"gzip in gzip":          {layer{raw, gzipBytes(raw), ocispec.MediaTypeImageLayerGzip}, invalid, "tar"},
		"another diff id":       {blobOf(gzipBytes(x.tar)), invalid, "has digest"},
		"gzip bomb":             {blobOf(bomb.Bytes()), exhausted, "the limit"},
		"zstd bomb":             {blobOf(zbomb.Bytes()), exhausted, "the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newDiskKit(t, func(o *Options) { o.MaxLayer = limit })
			h.push("good", "v1", nil, good)
			k.mustPull(t, h.host+"/good:v1")
			before := k.disk(t)
			h.push("evil", "v1", nil, good, named("another", "layer"), c.evil)
			_, err := k.Pull(t.Context(), h.host+"/evil:v1", nil)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error = %v, want %v and %q", err, c.kind, c.text)
			}
			if after := k.disk(t); after != before {
				t.Errorf("the disk has changed from\n%sto\n%s", before, after)
			}
		})
	}
}

// TestManifestOf100MB: a registry that sends far more than a manifest is cut off early,
// whether it says so, lies, or does not say.
func TestManifestOf100MB(t *testing.T) {
	const size = 100 << 20
	for name, head := range map[string]func(http.Header){
		"says so":            func(h http.Header) { h.Set("Content-Length", fmt.Sprint(size)) },
		"lies":               func(h http.Header) { h.Set("Content-Length", "500") },
		"does not say":       func(http.Header) {},
		"no digest, says so": func(h http.Header) { h.Set("Content-Length", fmt.Sprint(size)); h.Del("Docker-Content-Digest") },
		"no digest, silent":  func(h http.Header) { h.Del("Docker-Content-Digest") },
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			var sent atomic.Int64
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", digest.FromString("something").String())
				if r.Method == http.MethodHead {
					head(w.Header())
					return true
				}
				if name == "no digest, silent" || name == "no digest, says so" {
					w.Header().Del("Docker-Content-Digest")
				}
				_, _ = w.Write([]byte(`{"layers":[`))
				for sent.Load() < size {
					n, err := w.Write(bytes.Repeat([]byte("{},"), 10000))
					sent.Add(int64(n))
					if err != nil {
						break
					}
				}
				return true
			})
			_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
			if !errdefs.IsFailedPrecondition(err) {
				t.Errorf("error = %v", err)
			}
			if n := sent.Load(); n > 5*(maxManifest+(4<<20)) { // buffers of the connection, each attempt
				t.Errorf("%d MiB were taken", n>>20)
			}
			k.wantEmpty(t)
		})
	}
}

// TestManifestSizeLies: an index that is wrong about its manifest's size, and a manifest
// that is wrong about its configuration's, fail the pull.
func TestManifestSizeLies(t *testing.T) {
	for _, off := range []int64{-1, 1, -1 << 40, 1 << 40} {
		h, k := newHub(t), newKit(t, nil)
		d := h.push("app", "", nil, gzipped("one")).manifest
		d.Size += off
		h.manifest("app", "index", ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{d}})
		if _, err := k.Pull(t.Context(), h.host+"/app:index", nil); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("manifest of %+d bytes: error = %v", off, err)
		}
		p := h.push("app", "", nil, gzipped("one"))
		p.doc.Config.Size += off
		h.manifest("app", "v1", p.doc.MediaType, p.doc)
		if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("configuration of %+d bytes: error = %v", off, err)
		}
		k.wantEmpty(t)
	}
}

// TestIndexLoop: a registry that answers every question with one index is not followed.
func TestIndexLoop(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	inner := h.push("app", "", nil, gzipped("one")).manifest
	inner.MediaType = ocispec.MediaTypeImageIndex
	d := h.manifest("app", "v1", ocispec.MediaTypeImageIndex, ocispec.Index{Manifests: []ocispec.Descriptor{inner}})
	loop := h.manifests["app@"+d.Digest.String()]
	asked := 0
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, inner.Digest.String()) {
			asked++
			w.Header().Set("Content-Type", loop.mediaType)
			_, _ = w.Write(loop.raw)
			return true
		}
		return false
	})
	if _, err := k.Pull(t.Context(), h.host+"/app:v1", nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error = %v", err)
	}
	if asked == 0 || asked > attempts {
		t.Errorf("the index was asked for %d times", asked)
	}
	k.wantEmpty(t)
}
