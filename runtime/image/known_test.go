package image

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// before is an observer that is called when a step begins.
type before func(step string)

func (b before) StepBegins(_, step string)                   { b(step) }
func (before) StepEnds(string, string, time.Duration, error) {}

// A pull that knows an image by its record pins the layers after their removal has begun:
// it has to fetch them again, not to count on what is about to go.
func TestPullOfAnImageThatIsBeingRemoved(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("app", "v1", nil, gzipped("one"), gzipped("two"))
	ref := h.host + "/app:v1"
	k.mustPull(t, ref)
	removing, end := make(chan struct{}, 2), make(chan struct{})
	k.layers.remove = func() { removing <- struct{}{}; <-end }
	removed := make(chan error, 1)
	ctx := flow.WithObserver(t.Context(), before(func(step string) {
		if step == "pin layers" {
			go func() { removed <- k.Remove(context.Background(), ref) }()
			<-removing
		}
	}))
	type answer struct {
		image Image
		err   error
	}
	pulled := make(chan answer, 1)
	go func() { img, err := k.Pull(ctx, ref, nil); pulled <- answer{img, err} }()
	var got answer
	select {
	case got = <-pulled: // did not wait
	case <-time.After(100 * time.Millisecond):
	}
	close(end)
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if got.image.ID == "" && got.err == nil {
		got = <-pulled
	}
	if got.err != nil {
		t.Fatal(got.err)
	}
	for _, id := range got.image.Layers {
		if !slices.Contains(k.layers.List(), id) {
			t.Errorf("layer %s of the image is gone", id)
		}
	}
	if l := k.List(); len(l) != 1 {
		t.Errorf("images = %v, want one", l)
	}
}
