//go:build failpoint

package image

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/flow"
	store "github.com/cricket-cri/cricket/runtime/layer"
)

// Where the process that is to be killed finds its work.
const (
	victimRef = "CRICKET_TEST_VICTIM_REF"
	victimDir = "CRICKET_TEST_VICTIM_DIR"
	// The descriptor of the manifest, as JSON.
	victimTarget = "CRICKET_TEST_VICTIM_TARGET"
)

// TestKilledAtEveryStep has a process killed at each step of a pull, a removal and an
// import, on the real layer store: the next one finds the image whole or absent, no
// rubbish beside it, and does what was begun.
func TestKilledAtEveryStep(t *testing.T) {
	if ref := os.Getenv(victimRef); ref != "" {
		die(t, ref)
	}
	for _, point := range points(t) {
		t.Run(strings.ReplaceAll(point, "/", ","), func(t *testing.T) {
			h, dir := newHub(t), t.TempDir()
			p := h.push("app", "v1", nil, gzipped("one"), gzipped(noise(1<<20)))
			t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "state"), unix.MNT_DETACH) })
			ref := h.host + "/app:v1"
			kill(t, point, ref, dir, p.manifest)

			s, layers := openOn(t, dir)
			wantWholeOrAbsent(t, s, layers, dir)
			if strings.HasPrefix(point, "import") {
				if _, err := s.Import(t.Context(), p.offer(ref), h.content("app")); err != nil {
					t.Errorf("repeated import: %v", err)
				}
			} else if _, err := s.Pull(t.Context(), ref, nil); err != nil {
				t.Errorf("repeated pull: %v", err)
			}
			wantWholeOrAbsent(t, s, layers, dir)
			if n := len(s.List()); n != 1 {
				t.Errorf("%d images, want one", n)
			}
			if err := s.Remove(t.Context(), ref); err != nil {
				t.Error(err)
			}
			wantNoFiles(t, dir)
		})
	}
}

// die does one thing after the other and is killed at one of their steps.
func die(t *testing.T, ref string) {
	s, _ := openOn(t, os.Getenv(victimDir))
	var p pushed
	if err := json.Unmarshal([]byte(os.Getenv(victimTarget)), &p.manifest); err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(ref, "/")
	_, err := s.Pull(t.Context(), ref, nil)
	err = errors.Join(err, s.Remove(t.Context(), ref))
	_, importErr := s.Import(t.Context(), p.offer(ref), hubContent{"http://" + host + "/v2/app"})
	t.Fatal("outlived the kill", err, importErr)
}

// wantWholeOrAbsent checks that images have their layers, and that there are no others.
func wantWholeOrAbsent(t *testing.T, s *Store, layers *store.Store, dir string) {
	t.Helper()
	needed := map[digest.Digest]bool{}
	for _, img := range s.List() {
		for _, l := range img.Layers {
			needed[l] = true
			if _, err := (store.Blobs{Root: filepath.Join(dir, "layers")}).Verify(t.Context(), l); err != nil {
				t.Errorf("image %v: layer %s: %v", img.RepoTags, l, err)
			}
		}
	}
	for _, l := range layers.List() {
		if !needed[l] {
			t.Errorf("layer %s is nobody's", l)
		}
	}
	if len(needed) == 0 {
		wantNoFiles(t, dir)
	}
}

func openOn(t *testing.T, dir string) (*Store, *store.Store) {
	t.Helper()
	layers, err := store.Open(store.Options{Root: filepath.Join(dir, "layers"), State: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: filepath.Join(dir, "images"), Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	return s, layers
}

// kill runs this test in a process of its own, which dies at the point.
func kill(t *testing.T, point, ref, dir string, target ocispec.Descriptor) {
	t.Helper()
	raw, err := json.Marshal(target)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "failpoints")
	if err := os.WriteFile(file, []byte(point+"=kill\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAtEveryStep$")
	victim.Env = append(os.Environ(), flow.FailpointFile+"="+file, victimRef+"="+ref, victimDir+"="+dir, victimTarget+"="+string(raw))
	out, err := victim.CombinedOutput()
	status, ok := victim.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed at %s: %v\n%s", point, err, out)
	}
}

func wantNoFiles(t *testing.T, dir string) {
	t.Helper()
	for _, sub := range []string{"images", "layers"} {
		files, _ := os.ReadDir(filepath.Join(dir, sub))
		for _, f := range files {
			t.Errorf("%s/%s is left", sub, f.Name())
		}
	}
}
