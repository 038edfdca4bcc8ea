package image

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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

// A panic of a pull, which runs in a goroutine of nobody's request, is the error of all
// who wait for it, and leaves nothing behind.
func TestPanicOfAPullIsAnError(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	h.push("app", "v1", nil, gzipped("one"))
	ref := h.host + "/app:v1"
	k.mustPull(t, ref)
	both := make(chan struct{})
	k.layers.has = func() { <-both; panic("layer store") }
	errs := make(chan error, 2)
	for range 2 {
		go func() { _, err := k.Pull(t.Context(), ref, nil); errs <- err }()
	}
	k.await(t, 2)
	close(both)
	for range 2 {
		if err := <-errs; !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "layer store") {
			t.Errorf("error = %v, want the panic as internal", err)
		}
	}
	k.layers.has = nil
	k.mustPull(t, ref)
	if err := k.Remove(t.Context(), ref); err != nil {
		t.Error(err)
	}
	k.wantEmpty(t)
}

// TestPanicOutsideOfSteps: whatever panics in a call, those who wait for it go on.
func TestPanicOutsideOfSteps(t *testing.T) {
	c := calls{open: map[string]*call{}}
	_, err := c.join(t.Context(), "key", func(context.Context) (Image, error) { panic("call") })
	if !errdefs.IsInternal(err) || len(c.open) != 0 {
		t.Errorf("error = %v, want the panic as internal; %d calls are left", err, len(c.open))
	}
}

// What a manifest claims of layers that are here is not read, but counts as the image's
// size.
func TestSizesThatAreClaimed(t *testing.T) {
	for name, c := range map[string]struct {
		maxLayer int64
		sizes    []int64
		kind     error
	}{
		"beyond the limit": {1 << 20, []int64{2<<20 + 2, 10}, errdefs.ErrResourceExhausted},
		"at the limit":     {1 << 20, []int64{2 << 20, 10}, nil},
		"negative":         {1 << 20, []int64{-1, 10}, errdefs.ErrFailedPrecondition},
		"sum that wraps":   {math.MaxInt64, []int64{math.MaxInt64, math.MaxInt64}, errdefs.ErrFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			h, k := newHub(t), newKit(t, func(o *Options) { o.MaxLayer = c.maxLayer })
			layers := []layer{gzipped("one"), gzipped("two")}
			h.push("app", "v1", nil, layers...)
			k.mustPull(t, h.host+"/app:v1")
			h.push("liar", "v1", func(_ *ocispec.Image, m *ocispec.Manifest) {
				for i := range m.Layers {
					m.Layers[i].Size = c.sizes[i]
				}
			}, layers...)
			if _, err := k.Pull(t.Context(), h.host+"/liar:v1", nil); !errors.Is(err, c.kind) {
				t.Errorf("error = %v, want %v", err, c.kind)
			}
		})
	}
}
