package image

import (
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestCheckpointMarks: an image says by annotation or label that it is a checkpoint; a
// mark that one manifest of several has marks nothing.
func TestCheckpointMarks(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	mark := func(key string) func(*ocispec.Image, *ocispec.Manifest) {
		return func(_ *ocispec.Image, m *ocispec.Manifest) { m.Annotations = map[string]string{key: "c"} }
	}
	label := func(i *ocispec.Image, _ *ocispec.Manifest) {
		i.Config.Labels = map[string]string{"org.criu.checkpoint.pod.name": "p"}
	}
	for name, c := range map[string]struct {
		change func(*ocispec.Image, *ocispec.Manifest)
		want   string
	}{
		"none":  {nil, ""},
		"other": {mark("org.criu.other"), ""},
		"criu":  {mark("org.criu.checkpoint.container.name"), "org.criu.checkpoint.container.name"},
		"crio":  {mark(crioMark), crioMark},
		"label": {label, "org.criu.checkpoint.pod.name"},
	} {
		h.push(name, "v1", c.change, gzipped(name))
		if img := k.mustPull(t, h.host+"/"+name+":v1"); img.Checkpoint != c.want {
			t.Errorf("%s: marked %q, want %q", name, img.Checkpoint, c.want)
		}
	}
	k.reopen(t)
	for name, want := range map[string]string{"criu": "org.criu.checkpoint.container.name", "none": ""} {
		img, err := k.Get(h.host + "/" + name + ":v1")
		if err != nil || img.Checkpoint != want {
			t.Errorf("%s after a restart: marked %q, %v, want %q", name, img.Checkpoint, err, want)
		}
		if img := k.mustPull(t, h.host+"/"+name+":v1"); img.Checkpoint != want {
			t.Errorf("%s pulled again: marked %q, want %q", name, img.Checkpoint, want)
		}
	}
	// The same image without the mark, and a mark on an image that had none.
	h.push("criu", "v2", nil, gzipped("criu"))
	if img := k.mustPull(t, h.host+"/criu:v2"); img.Checkpoint != "" {
		t.Errorf("an image that is none by another manifest: marked %q", img.Checkpoint)
	}
	h.push("none", "v2", mark(crioMark), gzipped("none"))
	if img := k.mustPull(t, h.host+"/none:v2"); img.Checkpoint != "" {
		t.Errorf("an image that was known: marked %q", img.Checkpoint)
	}
}
