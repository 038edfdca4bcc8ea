package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Layers is what images need of the layer store. Layers are named by their diff id, those of
// artifacts' files by fileID.
type Layers interface {
	Has(id digest.Digest) bool
	// Lacks tells that the layer is not there for sure, as a disk that fails does not say.
	Lacks(id digest.Digest) bool
	// Ingest keeps the layer durably, whole or not at all, and fails unless the stream
	// has that digest. It reads the stream to its end before it keeps anything.
	Ingest(ctx context.Context, id digest.Digest, tar io.Reader) error
	// IngestFile is Ingest for a layer of one regular file, whose path in the layer is file.
	// The id is a name for just that. content has size bytes, and ends with an error if it is
	// not true.
	IngestFile(ctx context.Context, id digest.Digest, file string, size int64, content io.Reader) error
	Remove(ctx context.Context, id digest.Digest) error
	List() []digest.Digest
	Usage() (bytes, inodes uint64)
}

// holds keeps pulls and removals off each other's layers. A pull pins its layers from
// before it looks for them until its record is written; a pinned layer is not removed.
type holds struct {
	mu   sync.Mutex
	pins map[digest.Digest]int
	busy map[digest.Digest]chan struct{} // being fetched or removed
}

func (h *holds) pin(ids []digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		h.pins[id]++
	}
}

func (h *holds) unpin(ids []digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if h.pins[id]--; h.pins[id] == 0 {
			delete(h.pins, id)
		}
	}
}

func (h *holds) pinned(id digest.Digest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pins[id] > 0
}

// take waits for the right to fetch or remove a layer; the caller calls give once.
func (h *holds) take(ctx context.Context, id digest.Digest) (give func(), err error) {
	for {
		h.mu.Lock()
		busy, taken := h.busy[id]
		if !taken {
			done := make(chan struct{})
			h.busy[id] = done
			h.mu.Unlock()
			return func() { h.release(id, done) }, nil
		}
		h.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for layer: %w", ctx.Err())
		}
	}
}

func (h *holds) release(id digest.Digest, done chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, id)
	close(done)
}

// sweep removes the layers that no record names and no pull needs.
func (s *Store) sweep(ctx context.Context) error {
	var errs []error
	for _, id := range s.opts.Layers.List() {
		if s.needed(id) {
			continue
		}
		errs = append(errs, s.removeLayer(ctx, id))
	}
	return errors.Join(errs...)
}

func (s *Store) removeLayer(ctx context.Context, id digest.Digest) error {
	give, err := s.holds.take(ctx, id)
	if err != nil {
		return err
	}
	defer give()
	if s.needed(id) || !s.opts.Layers.Has(id) {
		return nil
	}
	if err := s.opts.Layers.Remove(ctx, id); err != nil {
		return fmt.Errorf("remove layer %s: %w", id, err)
	}
	return nil
}

// hasLayer answers for good if the layer is pinned: it waits for a removal that had begun
// before that.
func (s *Store) hasLayer(ctx context.Context, id digest.Digest) (bool, error) {
	give, err := s.holds.take(ctx, id)
	if err != nil {
		return false, err
	}
	defer give()
	return s.opts.Layers.Has(id), nil
}

// needed asks for the pin first: a pull gives it up only after its record is known.
func (s *Store) needed(id digest.Digest) bool {
	if s.holds.pinned(id) {
		return true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.uses[id] > 0
}
