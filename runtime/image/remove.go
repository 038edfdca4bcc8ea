package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// Remove removes the image that ref leads to, in any form that Get takes, with all its
// names, and the layers that nothing else needs. It succeeds for what is not there.
//
// The record goes first and durably, so that a crash leaves layers without image, which
// Open sweeps, and never an image without layers. It needs no free space on the disk.
// Containers of the image run on: the kernel keeps what they have mounted.
func (s *Store) Remove(ctx context.Context, ref string) error {
	img, err := s.Get(ref)
	if errdefs.IsNotFound(err) {
		// An earlier attempt may have removed the record and not all of the layers.
		return classify(s.sweep(ctx))
	}
	if err != nil {
		return err
	}
	err = flow.Run(ctx, "remove image",
		flow.Step{Name: "remove record", Do: func(context.Context) error { return s.erase(img.ID) }},
		flow.Step{Name: "remove layers", Do: s.sweep},
	)
	return classify(err)
}

func (s *Store) erase(id digest.Digest) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.RLock()
	e, ok := s.entries[id]
	s.mu.RUnlock()
	if !ok {
		return nil // another was faster
	}
	if err := e.record.erase(s.opts.Root); err != nil {
		return fmt.Errorf("erase image: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(id)
	return nil
}
