package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/runtime/image"
)

// PrefetchImage pulls an image for the operator's tool (cri/operator), as an anonymous
// PullImage does.
func (s *Server) PrefetchImage(ctx context.Context, ref string) (image.Image, error) {
	if ref == "" {
		return image.Image{}, fmt.Errorf("the image's name is empty: %w", errdefs.ErrInvalidArgument)
	}
	op := ops.Spec{Key: ops.Key{Kind: "pull image", Name: pullName(ref, "", nil)}, Budget: pullBudget}
	img, err := ops.Do(ctx, s.ops, op, func(ctx context.Context) (image.Image, error) {
		return s.opts.Images.Pull(ctx, ref, nil)
	})
	if err != nil {
		return image.Image{}, pullError(ref, err)
	}
	return img, nil
}

// Between two attempts at one image.
const (
	prefetchSoon = 2 * time.Second
	prefetchLate = 5 * time.Minute
)

// Prefetch pulls images in the background, one after the other, and those that fail again
// and again until they are there or the server is closed. Images that are there already
// are not asked for: a node without a way to its registries has nothing to do.
func (s *Server) Prefetch(refs []string) {
	if len(refs) == 0 {
		return
	}
	s.work.start(func(ctx context.Context) { s.prefetch(ctx, refs, prefetchSoon) })
}

func (s *Server) prefetch(ctx context.Context, refs []string, wait time.Duration) {
	for len(refs) > 0 {
		var failed []string
		for _, ref := range refs {
			if ctx.Err() != nil {
				return
			}
			if !s.prefetchOne(ctx, ref) {
				failed = append(failed, ref)
			}
		}
		refs = failed
		if len(refs) > 0 && !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, prefetchLate)
	}
}

// prefetchOne says whether the image is there.
func (s *Server) prefetchOne(ctx context.Context, ref string) bool {
	if _, err := s.opts.Images.Get(ref); err == nil {
		return true
	}
	// Not by ops, whose operations outlive their callers: the end of the server must not
	// wait for this. A PullImage of the same image joins it in the image store.
	began := time.Now()
	_, err := s.opts.Images.Pull(ctx, ref, nil)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.log.Warn("image is not prefetched yet", "image", ref, "error", err)
		return false
	}
	s.log.Info("image is prefetched", "image", ref, "took", time.Since(began))
	return true
}

// sleep returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
