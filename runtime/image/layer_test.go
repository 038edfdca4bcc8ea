package image_test

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/layer"
)

// Another's registry and another's images, into the layer store of this tree.
func TestPullIntoLayerStore(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/team/app:v1"
	made, err := random.Image(100<<10, 4)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, made); err != nil {
		t.Fatal(err)
	}
	root, state := t.TempDir(), t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) }) // bound where mounts are shared
	layers, err := layer.Open(layer.Options{Root: filepath.Join(root, "layers"), State: state})
	if err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(image.Options{Root: filepath.Join(root, "images"), Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(t.Context(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := made.ConfigName(); img.ID.String() != want.String() {
		t.Errorf("id = %s, want %s", img.ID, want)
	}
	if got := layers.List(); len(got) != 4 || !slices.Contains(got, img.Layers[0]) {
		t.Errorf("layers = %v", got)
	}
	dirs, err := layers.Mount(t.Context(), img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	for i, dir := range dirs {
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("layer %d holds %v, %v, want one file", i+1, files, err)
		}
	}
	used, _ := s.Usage()
	if used.Bytes < 400<<10 || used.Bytes > 1<<20 {
		t.Errorf("usage = %+v for 400 KiB of files", used)
	}
	if err := s.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if l := layers.List(); len(l) != 0 {
		t.Errorf("layers %v are left", l)
	}
}
