package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// on is an image that has one more layer, given as a tar.
func (n *Node) on(base string, layer []byte) v1.Image {
	n.t.Helper()
	img, err := n.Set.Image(base)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.above(img, layer)
}

// above is img with one more layer.
func (n *Node) above(img v1.Image, layer []byte) v1.Image {
	n.t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil })
	if err != nil {
		n.t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, l); err != nil {
		n.t.Fatal(err)
	}
	return img
}

// used is what ImageFsInfo says of the store.
func (n *Node) used() int64 {
	n.t.Helper()
	r, err := n.Images.ImageFsInfo(n.t.Context(), &cri.ImageFsInfoRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	return int64(r.GetImageFilesystems()[0].GetUsedBytes().GetValue())
}

// imageFiles are the files of the image store.
func (n *Node) imageFiles() string {
	var files []string
	for _, dir := range []string{"images", "layers"} {
		filepath.WalkDir(filepath.Join(n.Paths.Root, dir), func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, name)
			}
			return nil
		})
	}
	return strings.Join(files, "\n")
}

func randomBytes(size int) []byte {
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// TestPullDelta: an image that is another with one more layer costs that layer.
func TestPullDelta(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	const size = 3 << 20
	img := n.on(images.Busybox, tarOf(t, file("data", randomBytes(size))))
	const name = "registry.example/delta:1"
	if err := n.Registry.Add(t.TempDir(), name, img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, _ := layers[len(layers)-1].Digest()
	config, _ := img.ConfigName()
	before, asked := n.used(), len(n.Registry.Requests())
	id := n.Pull(name)
	var blobs []string
	for _, r := range n.Registry.Requests()[asked:] {
		if r.Kind == "blobs" && r.Method == http.MethodGet {
			blobs = append(blobs, r.Reference)
		}
	}
	want := []string{layer.String(), config.String()}
	slices.Sort(want)
	slices.Sort(blobs)
	if !slices.Equal(blobs, want) {
		t.Errorf("blobs %v were fetched, want %v", blobs, want)
	}
	if grown := n.used() - before; grown < size || grown > size+64<<10 {
		t.Errorf("the store has grown by %d bytes for a layer of %d", grown, size)
	}
	asked = len(n.Registry.Requests())
	n.Pull(name) // is there already
	for _, r := range n.Registry.Requests()[asked:] {
		if r.Kind == "blobs" {
			t.Errorf("the second pull fetched %s", r.Reference)
		}
	}
	if _, err := n.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}}); err != nil {
		t.Fatal(err)
	}
	if left := n.used() - before; left > 64<<10 || left < 0 {
		t.Errorf("%d bytes more than before the image are used", left)
	}
	pod, _, _ := n.Sleeper() // what both share is still there
	if pod == "" {
		t.Error("no pod")
	}
}

// private is a registry with credentials, or one that breaks.
func (n *Node) private(before func(address string) func(http.ResponseWriter, *http.Request) bool) (*images.Registry, string) {
	n.t.Helper()
	r := images.NewRegistry()
	var answer func(http.ResponseWriter, *http.Request) bool
	r.Before = func(w http.ResponseWriter, req *http.Request) bool { return answer(w, req) }
	server, address, err := r.Serve("127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { server.Close() })
	answer = before(address)
	dir := filepath.Join(n.Paths.Hosts, address)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = \"http://%s\"\n", address), 0o644); err != nil {
		n.t.Fatal(err)
	}
	return r, address
}

// add serves a new small image as host/name:1 and returns the name to pull.
func (n *Node) add(r *images.Registry, host, name string, size int) string {
	n.t.Helper()
	img := n.on(images.Pause, tarOf(n.t, file("data", randomBytes(size))))
	if err := r.Add(n.t.TempDir(), host+"/"+name+":1", img); err != nil {
		n.t.Fatal(err)
	}
	return host + "/" + name + ":1"
}

// TestInterruptedPull: a pull that breaks in the middle of a layer leaves nothing, and
// the next one brings the whole image.
func TestInterruptedPull(t *testing.T) {
	n := Start(t)
	broken := true
	r, host := n.private(func(string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !broken || !strings.Contains(req.URL.Path, "/blobs/") || req.Method != http.MethodGet {
				return false
			}
			w.Header().Set("Content-Length", "4000000")
			w.Write(randomBytes(1 << 20))
			w.(http.Flusher).Flush()
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
			return true
		}
	})
	name := n.add(r, host, "broken", 4<<20)
	files, used := n.imageFiles(), n.used()
	_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
	WantCode(t, err, codes.Unavailable, codes.FailedPrecondition)
	list, err := n.Images.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 0 {
		t.Errorf("images after an interrupted pull: %v, %v", list.GetImages(), err)
	}
	if got := n.imageFiles(); got != files || n.used() != used {
		t.Errorf("%d bytes in files after an interrupted pull:\n%s\nbefore:\n%s", n.used()-used, got, files)
	}
	broken = false
	n.Pull(name)
}

// auth asks for user:secret, directly or for a token.
func auth(bearer bool) func(address string) func(http.ResponseWriter, *http.Request) bool {
	return func(address string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			user, password, _ := req.BasicAuth()
			known := user == "user" && password == "secret"
			challenge := `Basic realm="test"`
			if bearer {
				if req.URL.Path == "/token" {
					if !known {
						w.WriteHeader(http.StatusUnauthorized)
						return true
					}
					fmt.Fprintf(w, `{"token":"the-token","expires_in":300}`)
					return true
				}
				known = req.Header.Get("Authorization") == "Bearer the-token"
				challenge = fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:private/app:pull"`, address)
			}
			if known {
				return false
			}
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return true
		}
	}
}

func TestCredentials(t *testing.T) {
	n := Start(t)
	for name, bearer := range map[string]bool{"basic": false, "bearer": true} {
		t.Run(name, func(t *testing.T) {
			n := n.For(t)
			r, host := n.private(auth(bearer))
			ref := n.add(r, host, "private/app", 1000)
			for name, c := range map[string]struct {
				auth *cri.AuthConfig
				want codes.Code
			}{
				"none":           {nil, codes.Unauthenticated},
				"wrong password": {&cri.AuthConfig{Username: "user", Password: "guess"}, codes.Unauthenticated},
				"wrong user":     {&cri.AuthConfig{Username: "other", Password: "secret"}, codes.Unauthenticated},
				"right":          {&cri.AuthConfig{Username: "user", Password: "secret"}, codes.OK},
				"encoded":        {&cri.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("user:secret"))}, codes.OK},
				"for another":    {&cri.AuthConfig{Username: "user", Password: "secret", ServerAddress: "registry.example"}, codes.Unauthenticated},
				"not encoded":    {&cri.AuthConfig{Auth: "%%%"}, codes.InvalidArgument},
			} {
				_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: c.auth})
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("the answer shows the password: %v", err)
				}
				t.Run(name, func(t *testing.T) { WantCode(t, err, c.want) })
			}
			answers := AllOf(12, func(i int) error { // at once: none gets in by another's credentials
				a := &cri.AuthConfig{Username: "user", Password: "secret"}
				if i%2 == 1 {
					a.Password = "guess"
				}
				_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: a})
				return err
			})
			for i, err := range answers {
				WantCode(t, err, []codes.Code{codes.OK, codes.Unauthenticated}[i%2])
			}
		})
	}
	log, err := os.ReadFile(n.Paths.Log)
	if err != nil || bytes.Contains(log, []byte("secret")) || bytes.Contains(log, []byte("the-token")) {
		t.Errorf("the daemon's log holds a credential (%v)", err)
	}
	n.NoPanic()
}

func TestTagsAndPins(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "[images]\npinned = [%q]\n", images.Pause), 0o644); err != nil {
		t.Fatal(err)
	}
	n := Start(t, "--config", config)
	status := func(ref string) *cri.Image {
		t.Helper()
		r, err := n.Images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetImage()
	}
	n.Pull(images.Pause)
	if !status(images.Pause).GetPinned() {
		t.Error("the image is not pinned")
	}
	const tags = "gcr.io/k8s-staging-cri-tools/test-image-tags:"
	id := n.Pull(tags + "1")
	if status(id).GetPinned() {
		t.Error("an image that is not configured is pinned")
	}
	if again := n.Pull(tags + "2"); again != id {
		t.Errorf("two ids of one image: %s, %s", id, again)
	}
	n.Pull(tags + "3")
	if got := status(id).GetRepoTags(); len(got) != 3 {
		t.Errorf("tags are %v", got)
	}
	digest := status(id).GetRepoDigests()[0]
	for _, ref := range []string{digest, tags + "2", strings.TrimPrefix(id, "sha256:"), id[7:20]} {
		if got := status(ref).GetId(); got != id {
			t.Errorf("%s leads to %q, want %s", ref, got, id)
		}
	}
	for range 2 { // the second time there is nothing to do
		if _, err := n.Images.RemoveImage(t.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: tags + "2"}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{tags + "1", tags + "3", id, digest} {
		if img := status(ref); img != nil {
			t.Errorf("%s is still there: %v", ref, img)
		}
	}
	n.RestartDaemon()
	if img := status(images.Pause); !img.GetPinned() || img.GetId() == "" {
		t.Errorf("after a restart the image is %v", img)
	}
}
