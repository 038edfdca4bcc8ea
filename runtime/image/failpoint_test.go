//go:build failpoint

package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// TestEveryStepFails has each step of all flows fail, before and after its work: an
// image is whole or absent, and what is left over is gone when the store opens again.
func TestEveryStepFails(t *testing.T) {
	for _, point := range points(t) {
		t.Run(strings.ReplaceAll(point, "/", ","), func(t *testing.T) {
			h, k := newHub(t), newKit(t, nil)
			p := h.push("app", "v1", nil, gzipped("one"), gzipped("two"))
			file := filepath.Join(t.TempDir(), "failpoints")
			t.Setenv(flow.FailpointFile, file)
			if err := os.WriteFile(file, []byte(point+"=error\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			ref := h.host + "/app:v1"
			_, pullErr := k.Pull(t.Context(), ref, nil)
			removeErr := k.Remove(t.Context(), ref)
			_, importErr := k.Import(t.Context(), p.offer(ref), h.content("app"))
			k.wantWhole(t)
			againErr := k.Remove(t.Context(), ref)
			failed := 0
			for _, err := range []error{pullErr, removeErr, importErr, againErr} {
				if err != nil {
					failed++
				}
			}
			if failed != 1 {
				t.Errorf("pull = %v, remove = %v, import = %v, remove = %v: want one to fail", pullErr, removeErr, importErr, againErr)
			}
			k.wantWhole(t)
			k.reopen(t)
			k.wantWhole(t)
			if _, err := k.Import(t.Context(), p.offer(ref), h.content("app")); err != nil {
				t.Errorf("repeated import: %v", err)
			}
			k.wantWhole(t)
			if err := k.Remove(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
			k.wantEmpty(t)
		})
	}
}

// points collects the failpoints that a pull, an import and a removal pass.
func points(t *testing.T) []string {
	t.Helper()
	h, k := newHub(t), newKit(t, nil)
	p := h.push("app", "v1", nil, gzipped("one"))
	file := filepath.Join(t.TempDir(), "failpoints")
	t.Setenv(flow.FailpointFile, file)
	k.mustPull(t, h.host+"/app:v1")
	if err := k.Remove(t.Context(), h.host+"/app:v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Import(t.Context(), p.offer(h.host+"/app:v1"), h.content("app")); err != nil {
		t.Fatal(err)
	}
	t.Setenv(flow.FailpointFile, "")
	raw, err := os.ReadFile(file + ".seen")
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if slices.Sort(list); len(list) != 24 {
		t.Fatalf("points = %q, want two for each of twelve steps", list)
	}
	return slices.Compact(list)
}

// wantWhole checks that every image that is listed has its layers.
func (k *kit) wantWhole(t *testing.T) {
	t.Helper()
	for _, img := range k.List() {
		for _, l := range img.Layers {
			if !k.layers.Has(l) {
				t.Errorf("image %v lacks layer %s", img.RepoTags, l)
			}
		}
	}
}
