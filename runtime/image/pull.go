package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// Pull brings an image in by name with tag or digest and returns it; auth may be nil.
// The registry is asked even for images that are there, as a tag may have moved and the
// credential may not open it; layers that are there are not fetched.
//
// A pull of the same name with the same credential that is under way is joined; it ends
// when the last who waits for it gives up. What a failed pull brought in is removed.
//
// An image that the signature policy does not accept is ErrPermissionDenied, and the error
// wraps trust.ErrRefused.
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth, options ...PullOption) (Image, error) {
	n, err := parseName(ref)
	if err != nil {
		return Image{}, err
	}
	if auth != nil {
		if _, _, err := auth.basic(); err != nil {
			return Image{}, err
		}
	}
	p := &pull{store: s, name: n}
	for _, o := range options {
		o(p)
	}
	key := n.full + " " + p.namespace + " " + auth.key()
	return s.calls.join(ctx, key, func(ctx context.Context) (Image, error) {
		return p.run(ctx, auth)
	})
}

// PullOption is something that most pulls do not say.
type PullOption func(*pull)

// ForNamespace has the signature policy of a namespace of Kubernetes decide.
func ForNamespace(namespace string) PullOption {
	return func(p *pull) { p.namespace = namespace }
}

// pull is one pull, whoever waits for it.
type pull struct {
	store    *Store
	reg      *registry
	transfer *transfer
	name     name
	target   ocispec.Descriptor
	source   source
	signed   []signed
	image    Image

	namespace string // of the pod that the image is for; empty for none
}

func (p *pull) run(ctx context.Context, auth *Auth) (img Image, err error) {
	s := p.store
	ctx, cancel := context.WithCancel(withLog(ctx, s.opts.Log))
	p.reg, p.transfer = s.registry(ctx, p.name, auth), s.begin(p.name.full)
	reported := make(chan struct{})
	go func() { defer close(reported); p.report(ctx) }()
	defer func() {
		cancel()
		<-reported
		p.reg.close()
		s.end(p.transfer)
		s.counts.end(err)
	}()
	err = flow.Run(ctx, "pull image",
		flow.Step{Name: "resolve reference", Do: caught(p.resolve)},
		flow.Step{Name: "read manifest", Do: caught(p.read)},
		flow.Step{Name: "check signatures", Do: caught(p.verify)},
		flow.Step{Name: "pin layers", Do: p.pin, Undo: caught(p.drop)},
		flow.Step{Name: "fetch layers", Do: caught(p.fetch)},  // what came in is dropped with the pins
		flow.Step{Name: "write record", Do: caught(p.record)}, // from here on the image is whole
	)
	if err != nil {
		return Image{}, redacted{classify(err)}
	}
	s.holds.unpin(p.source.diffIDs)
	return p.image, nil
}

func (p *pull) resolve(ctx context.Context) (err error) {
	p.target, err = p.reg.resolve(ctx)
	if err == nil && p.name.digest != "" && p.target.Digest != p.name.digest {
		return fmt.Errorf("%w: the registry answered with digest %s", errdefs.ErrFailedPrecondition, p.target.Digest)
	}
	return err
}

// read learns what the image consists of. The registry has told the digest; a record
// that came from the same digest tells the rest without asking again.
//
// An endpoint that tells a digest or size of what it does not serve is passed over, and
// the reference resolved again.
func (p *pull) read(ctx context.Context) (err error) {
	known, ok := p.store.byTarget(p.target.Digest)
	if ok && !p.store.opts.Trust.Enabled() { // what was signed may be the manifest, which records do not name
		p.source = known
		return nil
	}
	for {
		shunned := p.reg.shunnedCount()
		p.source, err = p.store.readSource(ctx, p.reg, p.target, p.store.platform)
		if err == nil || p.reg.shunnedCount() == shunned {
			return err
		}
		if err := p.resolve(ctx); err != nil {
			return err
		}
	}
}

// byTarget finds the image for this platform that a manifest or index digest led to, in
// whatever repository.
func (s *Store) byTarget(target digest.Digest) (source, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, e := range s.entries {
		if !s.suits(e) {
			continue
		}
		for _, d := range e.record.Digests {
			if len(d) > len(target) && d[len(d)-len(target)-1:] == "@"+target.String() {
				return source{
					id: e.record.ID, config: e.record.Config, artifact: artifact{e.image.Artifact, e.record.Manifest},
					diffIDs: e.record.DiffIDs, size: e.record.Size, checkpoint: e.record.Checkpoint,
				}, true
			}
		}
	}
	return source{}, false
}

func (p *pull) pin(context.Context) error {
	p.store.holds.pin(p.source.diffIDs)
	return nil
}

// drop gives up what the pull brought in, unless another needs it.
func (p *pull) drop(ctx context.Context) error {
	p.store.holds.unpin(p.source.diffIDs)
	return p.store.sweep(ctx)
}

// fetch brings in the layers that are missing, the lowest first.
func (p *pull) fetch(ctx context.Context) error {
	missing, err := p.missing(ctx)
	if err != nil {
		return err
	}
	if missing { // the known image was removed just now
		src, err := p.store.readSource(ctx, p.reg, p.target, p.store.platform)
		if err != nil {
			return err
		}
		if src.id != p.source.id {
			return fmt.Errorf("%w: %s is another image than before", errdefs.ErrUnavailable, p.target.Digest)
		}
		p.source.parts = src.parts
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.store.opts.Parallel)
	done := map[digest.Digest]bool{}
	for i, id := range p.source.diffIDs {
		if done[id] || p.source.parts == nil {
			continue
		}
		done[id] = true
		blob, in := p.source.parts[i], &incoming{}
		if !p.store.opts.Layers.Has(id) { // it may be removed yet, or come from another pull
			in = p.transfer.expect(blob.Size)
		}
		group.Go(func() error {
			if err := p.layer(ctx, id, blob, &in.arrive); err != nil {
				return fmt.Errorf("layer %d: %w", i+1, err)
			}
			in.done.Store(true)
			return nil
		})
	}
	return group.Wait()
}

// missing says whether a layer of an image that was known is gone. What other images lack,
// fetch finds out layer by layer.
func (p *pull) missing(ctx context.Context) (bool, error) {
	if p.source.parts != nil {
		return false, nil
	}
	for _, id := range p.source.diffIDs {
		if has, err := p.store.hasLayer(ctx, id); err != nil || !has {
			return err == nil, err
		}
	}
	return false, nil
}

// record writes down that the image is whole, and what it is called.
func (p *pull) record(context.Context) (err error) {
	n := naming{digests: []string{p.name.repoDigest(p.target.Digest)}, signed: p.signed}
	if p.name.tag != "" {
		n.tags = []string{p.name.tag}
	}
	p.image, err = p.store.commitImage(p.source, n)
	return err
}
