//go:build failpoint

package image

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/flow"
	store "github.com/cricket-cri/cricket/runtime/layer"
)

// Where the process that is to be killed finds its work.
const (
	victimRef = "CRICKET_TEST_VICTIM_REF"
	victimDir = "CRICKET_TEST_VICTIM_DIR"
)

// TestKilledAtEveryStep has a process killed at each step of both flows, on the real
// layer store: the next one finds the image whole or absent, and no rubbish.
func TestKilledAtEveryStep(t *testing.T) {
	if ref := os.Getenv(victimRef); ref != "" {
		s, _ := openOn(t, os.Getenv(victimDir))
		if _, err := s.Pull(context.Background(), ref, nil); err == nil {
			_ = s.Remove(context.Background(), ref)
		}
		t.Fatal("outlived the kill")
	}
	for _, point := range points(t) {
		t.Run(strings.ReplaceAll(point, "/", ","), func(t *testing.T) {
			h, dir := newHub(t), t.TempDir()
			h.push("app", "v1", nil, gzipped("one"), gzipped(noise(1<<20)))
			t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "state"), unix.MNT_DETACH) })
			kill(t, point, h.host+"/app:v1", dir)

			s, layers := openOn(t, dir)
			images := s.List()
			for _, img := range images {
				for _, l := range img.Layers {
					if !layers.Has(l) {
						t.Errorf("image %v lacks layer %s", img.RepoTags, l)
					}
				}
			}
			if len(images) == 0 {
				wantNoFiles(t, dir)
			}
			if err := s.Remove(t.Context(), h.host+"/app:v1"); err != nil {
				t.Error(err)
			}
			wantNoFiles(t, dir)
		})
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
func kill(t *testing.T, point, ref, dir string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "failpoints")
	if err := os.WriteFile(file, []byte(point+"=kill\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAtEveryStep$")
	victim.Env = append(os.Environ(), flow.FailpointFile+"="+file, victimRef+"="+ref, victimDir+"="+dir)
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
