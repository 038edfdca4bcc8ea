package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory is a layer store in memory.
type memory struct {
	mu     sync.Mutex
	layers map[digest.Digest][]byte
	ingest func() error // if set, asked when a layer is about to be kept
	has    func()       // if set, called when a layer is looked for
	remove func()       // if set, called when a layer is about to be removed
	silent bool         // as a disk that does not answer
}

func (m *memory) Has(id digest.Digest) bool {
	if m.has != nil {
		m.has()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.layers[id] != nil && !m.silent
}

func (m *memory) Lacks(id digest.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.layers[id] == nil && !m.silent
}

func (m *memory) Ingest(_ context.Context, id digest.Digest, tar io.Reader) error {
	raw, err := io.ReadAll(tar)
	if err != nil {
		return fmt.Errorf("read tar: %w", err)
	}
	if got := digest.NewDigestFromBytes(digest.SHA256, sum(raw)); got != id {
		return fmt.Errorf("%w: diff id is %s", errdefs.ErrFailedPrecondition, got)
	}
	if m.ingest != nil {
		if err := m.ingest(); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layers[id] = raw
	return nil
}

func (m *memory) IngestFile(_ context.Context, id digest.Digest, file string, size int64, content io.Reader) error {
	raw, err := io.ReadAll(content)
	if err != nil {
		return fmt.Errorf("read file: %w", err)
	}
	if int64(len(raw)) != size {
		return fmt.Errorf("%w: a file of %d bytes", errdefs.ErrFailedPrecondition, len(raw))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.layers[id] = slices.Concat([]byte(file+"\n"), raw)
	return nil
}

func sum(raw []byte) []byte { s := sha256.Sum256(raw); return s[:] }

func (m *memory) Remove(_ context.Context, id digest.Digest) error {
	if m.remove != nil {
		m.remove()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.layers, id)
	return nil
}

func (m *memory) List() []digest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.layers))
}

func (m *memory) Usage() (bytes, inodes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.layers {
		bytes += uint64(len(l))
	}
	return bytes, uint64(len(m.layers))
}

// hub is a registry on loopback that can be told to misbehave.
type hub struct {
	*httptest.Server
	host string

	mu        sync.Mutex
	blobs     map[string][]byte // repository@digest
	manifests map[string]manifest
	log       []string // METHOD path
	// before is asked first; true means that it has answered.
	before func(w http.ResponseWriter, r *http.Request) bool
}

type manifest struct {
	mediaType string
	raw       []byte
}

func newHub(t *testing.T) *hub {
	h := &hub{blobs: map[string][]byte{}, manifests: map[string]manifest{}}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Server.Close)
	h.host = strings.TrimPrefix(h.URL, "http://")
	return h
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.log = append(h.log, r.Method+" "+r.URL.Path)
	before := h.before
	h.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	if repo, ref, ok := strings.Cut(path, "/manifests/"); ok {
		h.mu.Lock()
		m, ok := h.manifests[repo+"@"+ref]
		h.mu.Unlock()
		if ok {
			w.Header().Set("Content-Type", m.mediaType)
			w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.raw).String())
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.raw))
			return
		}
	}
	if repo, d, ok := strings.Cut(path, "/blobs/"); ok {
		h.mu.Lock()
		raw, ok := h.blobs[repo+"@"+d]
		h.mu.Unlock()
		if ok {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
			return
		}
	}
	http.NotFound(w, r)
}

func (h *hub) misbehave(before func(w http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before = before
}

// fetched lists the blobs that were asked for since the last call.
func (h *hub) fetched() (blobs []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.log {
		if _, d, ok := strings.Cut(l, "/blobs/"); ok && strings.HasPrefix(l, "GET") {
			blobs = append(blobs, d)
		}
	}
	h.log = nil
	return blobs
}

func (h *hub) blob(repo string, raw []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[repo+"@"+d.Digest.String()] = raw
	return d
}

func (h *hub) manifest(repo, tag, mediaType string, doc any) ocispec.Descriptor {
	raw, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.manifests[repo+"@"+d.Digest.String()] = manifest{mediaType, raw}
	if tag != "" {
		h.manifests[repo+"@"+tag] = manifest{mediaType, raw}
	}
	return d
}

// layer is a layer to be pushed.
type layer struct {
	tar       []byte
	blob      []byte
	mediaType string
}

func (l layer) diffID() digest.Digest { return digest.FromBytes(l.tar) }

// plain makes a layer with one file of that content.
func plain(content string) layer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	w.Write([]byte(content))
	w.Close()
	return layer{buf.Bytes(), buf.Bytes(), ocispec.MediaTypeImageLayer}
}

func gzipped(content string) layer {
	l := plain(content)
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(l.tar)
	w.Close()
	return layer{l.tar, buf.Bytes(), ocispec.MediaTypeImageLayerGzip}
}

func zstded(content string) layer {
	l := plain(content)
	var buf bytes.Buffer
	w, _ := zstd.NewWriter(&buf)
	w.Write(l.tar)
	w.Close()
	return layer{l.tar, buf.Bytes(), ocispec.MediaTypeImageLayerZstd}
}

// pushed is an image in a registry.
type pushed struct {
	id       digest.Digest
	manifest ocispec.Descriptor
	doc      ocispec.Manifest
	config   ocispec.Descriptor
	layers   []layer
}

// push makes an image of layers; change may spoil it.
func (h *hub) push(repo, tag string, change func(*ocispec.Image, *ocispec.Manifest), layers ...layer) pushed {
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	config.Config.Env = []string{"IMAGE=" + repo}
	doc := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		d := h.blob(repo, l.blob)
		d.MediaType = l.mediaType
		doc.Layers = append(doc.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID())
	}
	if change != nil {
		change(&config, &doc)
	}
	raw, _ := json.Marshal(config)
	mediaType := doc.Config.MediaType
	doc.Config = h.blob(repo, raw)
	doc.Config.MediaType = mediaType
	if mediaType == "" {
		doc.Config.MediaType = ocispec.MediaTypeImageConfig
	}
	m := h.manifest(repo, tag, doc.MediaType, doc)
	return pushed{digest.FromBytes(raw), m, doc, doc.Config, layers}
}

// kit is a store with its layers.
type kit struct {
	*Store
	layers *memory
	opts   Options
}

func newKit(t *testing.T, change func(*Options)) *kit {
	k := &kit{layers: &memory{layers: map[digest.Digest][]byte{}}}
	k.opts = Options{Root: t.TempDir(), Layers: k.layers, Backoff: time.Millisecond}
	if change != nil {
		change(&k.opts)
	}
	k.reopen(t)
	return k
}

func (k *kit) reopen(t *testing.T) {
	t.Helper()
	s, err := Open(k.opts)
	if err != nil {
		t.Fatal(err)
	}
	k.Store = s
}

// mustPull pulls and fails the test if that fails.
func (k *kit) mustPull(t *testing.T, ref string) Image {
	t.Helper()
	img, err := k.Pull(t.Context(), ref, nil)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return img
}

// wantEmpty checks that nothing is left, in memory and on disk.
func (k *kit) wantEmpty(t *testing.T) {
	t.Helper()
	if l := k.List(); len(l) != 0 {
		t.Errorf("images = %v, want none", l)
	}
	if l := k.layers.List(); len(l) != 0 {
		t.Errorf("layers = %v, want none", l)
	}
	files, _ := os.ReadDir(k.opts.Root)
	for _, f := range files {
		t.Errorf("file %s is left", f.Name())
	}
	if n := len(k.holds.pins) + len(k.holds.busy) + len(k.calls.open); n != 0 {
		t.Errorf("%d pins, locks and pulls are left", n)
	}
}
