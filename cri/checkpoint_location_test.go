package cri

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// TestCheckpointsAreNotSwept: what the next daemon would remove is refused, however it is
// called, and what lies beside it is not.
func TestCheckpointsAreNotSwept(t *testing.T) {
	dir := t.TempDir()
	own, link := filepath.Join(dir, "checkpoints"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(own, "deep"), 0o755), os.Mkdir(own+"-2", 0o755), os.Symlink(own, link)); err != nil {
		t.Fatal(err)
	}
	s := &Server{opts: Options{CheckpointDir: link}}
	for _, path := range []string{own + "/a.tar", own + "/deep/a.tar", link + "/a.tar", link + "/../checkpoints/a.tar"} {
		if err := s.checkLocation(path); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := errors.Join(s.checkLocation(own+"-2/a.tar"), s.checkLocation(dir+"/a.tar"), s.notSwept("output_path", own+"-2")); err != nil {
		t.Error(err)
	}
	if err := s.notSwept("output_path", filepath.Join(own, "deep")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a pod's: %v", err)
	}
}
