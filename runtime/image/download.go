package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
)

// layer brings in one layer: fetched, checked, inflated, kept, in one pass. If an
// endpoint turns out to have served something else, the layer is fetched again from
// another.
func (p *pull) layer(ctx context.Context, id digest.Digest, blob part, arrive *atomic.Int64) error {
	return p.store.ifMissing(ctx, id, blob.Descriptor, func() error { return p.download(ctx, id, blob, arrive) })
}

func (p *pull) download(ctx context.Context, id digest.Digest, blob part, arrive *atomic.Int64) error {
	release, err := p.store.slots.acquire(ctx, p.reg.host)
	if err != nil {
		return err
	}
	defer release()
	for {
		sent := &stream{ctx: ctx, reg: p.reg, desc: blob.Descriptor, arrive: arrive, breaks: map[string]int{}, without: map[string]bool{}}
		err := p.ingest(ctx, id, blob.file, sent)
		if err == nil || ctx.Err() != nil || !untrue(err) || !p.another(sent) {
			return err
		}
		p.reg.log.Warn("layer is fetched again", "image", p.reg.full, "digest", blob.Digest, "error", redacted{err})
	}
}

// another says whether a blob that was not true is worth another attempt. If it came from
// several endpoints, the first of them broke off and is suspected; if it was put together
// from parts, it may be true when it comes in one piece.
func (p *pull) another(blob *stream) bool {
	if len(blob.sources) == 1 && blob.resumed && p.reg.askWhole() {
		return true
	}
	return slices.ContainsFunc(blob.sources, func(key string) bool { return p.reg.distrust(key, servesWrong) })
}

func (p *pull) ingest(ctx context.Context, id digest.Digest, file string, blob *stream) error {
	defer blob.close()
	watched := watchLayer(ctx, id, blob.desc, blob)
	checked := newVerifier(watched, blob.desc)
	err := p.store.ingest(ctx, id, file, checked)
	if err == nil {
		if _, err = io.Copy(io.Discard, checked); err == nil { // what lies behind the compressed data
			watched.done()
		}
		return err
	}
	if !errdefs.IsFailedPrecondition(err) && !errdefs.IsInvalidArgument(err) || untrue(err) || !p.reg.hasSpare() {
		return err
	}
	// What makes no sense may be another blob: the rest of it tells whose fault it is.
	if _, rest := io.Copy(io.Discard, checked); untrue(rest) {
		return fmt.Errorf("%w (%s)", rest, err.Error())
	}
	return err
}

// hasSpare says whether another endpoint could be asked if one is given up.
func (r *registry) hasSpare() bool {
	list, err := r.usable(docker.HostCapabilityPull, nil)
	return err == nil && len(list) > 1
}

// slots bound how many layers are fetched at once, of one registry and in whole. Whoever
// waits for a slow registry takes nothing from the others: its own slot comes first.
type slots struct {
	all *semaphore.Weighted
	per int64

	mu    sync.Mutex
	lanes map[string]*lane // of registries that are fetched from
}

type lane struct {
	*semaphore.Weighted
	users int
}

func newSlots(all, per int) *slots {
	return &slots{all: semaphore.NewWeighted(int64(all)), per: int64(per), lanes: map[string]*lane{}}
}

// acquire waits for a slot; the caller calls release once.
func (s *slots) acquire(ctx context.Context, registry string) (release func(), err error) {
	l := s.enter(registry)
	if err := l.Acquire(ctx, 1); err != nil {
		s.leave(registry, l)
		return nil, fmt.Errorf("wait for other downloads from %s: %w", registry, err)
	}
	if err := s.all.Acquire(ctx, 1); err != nil {
		l.Release(1)
		s.leave(registry, l)
		return nil, fmt.Errorf("wait for other downloads: %w", err)
	}
	return func() {
		s.all.Release(1)
		l.Release(1)
		s.leave(registry, l)
	}, nil
}

func (s *slots) enter(registry string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[registry]
	if l == nil {
		l = &lane{Weighted: semaphore.NewWeighted(s.per)}
		s.lanes[registry] = l
	}
	l.users++
	return l
}

func (s *slots) leave(registry string, l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.lanes, registry)
	}
}
