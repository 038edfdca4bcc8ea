package cri

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

func TestPullMetrics(t *testing.T) {
	m := NewMetrics("test")
	m.Add(PullMetrics(func() image.Status {
		return image.Status{
			Pulls: []image.Progress{
				{Name: "a", From: time.Now(), Fetched: 10, Total: 100, Layers: 3, Done: 1},
				{Name: "b", From: time.Now(), Fetched: 5, Total: 50, Layers: 2},
			},
			Bytes: 12345, Retries: 1, Resumed: 2, Failovers: 3, Ended: map[string]uint64{"ok": 7, "not_found": 1},
		}
	}))
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		"cricket_image_pulls_active 2", "cricket_image_pull_active_bytes 15", "cricket_image_pull_active_expected_bytes 150",
		"cricket_image_pull_active_layers 4", "cricket_image_pull_bytes_total 12345", "cricket_image_pull_retries_total 1",
		"cricket_image_pull_resumed_total 2", "cricket_image_pull_failovers_total 3",
		`cricket_image_pulls_total{outcome="ok"} 7`, `cricket_image_pulls_total{outcome="not_found"} 1`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
}

// noStore keeps no layer.
type noStore struct{ image.Layers }

func (noStore) Has(digest.Digest) bool                                 { return false }
func (noStore) List() []digest.Digest                                  { return nil }
func (noStore) Usage() (bytes, inodes uint64)                          { return 0, 0 }
func (noStore) Ingest(context.Context, digest.Digest, io.Reader) error { return io.ErrShortWrite }

// TestRefusedImages pulls what registries have beside images that can be run, and looks at
// what a client gets to see.
func TestRefusedImages(t *testing.T) {
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`
	descriptor := func(mediaType, content string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digest.FromString(content), len(content))
	}
	manifest := "application/vnd.oci.image.manifest.v1+json"
	tags := map[string]struct {
		mediaType, raw, want string
		code                 codes.Code
	}{
		"schema1": {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1", codes.Unimplemented},
		"foreign": {manifest, `{"schemaVersion":2,"config":` + descriptor("application/vnd.oci.image.config.v1+json", config) +
			`,"layers":[` + descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "x") + `]}`, "not distributable", codes.Unimplemented},
		"artifact": {manifest, `{"schemaVersion":2,"artifactType":"application/vnd.example.model","config":` +
			descriptor("application/vnd.example.config", config) + `,"layers":[` +
			strings.TrimSuffix(descriptor("text/plain", "x"), "}") + `,"annotations":{"org.opencontainers.image.title":"../etc/passwd"}}]}`,
			`"../etc/passwd"`, codes.InvalidArgument},
	}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/blobs/"+digest.FromString(config).String()) {
			fmt.Fprint(w, config)
			return
		}
		for tag, m := range tags {
			d := digest.FromString(m.raw).String()
			if strings.HasSuffix(r.URL.Path, "/manifests/"+tag) || strings.HasSuffix(r.URL.Path, "/manifests/"+d) {
				w.Header().Set("Content-Type", m.mediaType)
				w.Header().Set("Docker-Content-Digest", d)
				http.ServeContent(w, r, "", time.Time{}, strings.NewReader(m.raw))
				return
			}
		}
		http.NotFound(w, r)
	}))
	defer registry.Close()
	images, err := image.Open(image.Options{Root: t.TempDir(), Layers: noStore{}})
	if err != nil {
		t.Fatal(err)
	}
	s := paperServer(t, paperContainer{}, &paperImages{})
	s.opts.Images = images
	for tag, m := range tags {
		ref := strings.TrimPrefix(registry.URL, "http://") + "/app:" + tag
		_, err := s.PullImage(t.Context(), &v1.PullImageRequest{Image: &v1.ImageSpec{Image: ref}})
		if code := codeOf(err); code != m.code || !strings.Contains(err.Error(), m.want) {
			t.Errorf("%s: %s, %v", tag, code, err)
		}
	}
}
