package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// each asks the endpoints in the order of the configuration until one has it. If none
// has, the last one's answer counts: that is the registry itself, whereas a mirror may
// lack anything. What the others said is added to the text.
//
// The library can go through a list of endpoints, too, but answers the first one's error
// and does not tell who answered.
func (r *registry) each(ctx context.Context, need docker.HostCapabilities, without map[string]bool, do func(endpoint, remotes.Resolver) error) error {
	list, err := r.usable(need, without)
	if err != nil {
		return err
	}
	err = fmt.Errorf("%w: no endpoint of registry %s may be asked for it", errdefs.ErrNotFound, r.host)
	var before []string
	for i, e := range list {
		if err = do(e, r.resolver(e)); err == nil || ctx.Err() != nil {
			return err
		}
		if i < len(list)-1 {
			before = append(before, e.Host+": "+err.Error())
			if !silent(err) || !r.distrust(e.key, saysNothing) { // once is enough to wait for it
				r.counts.failovers.Add(1)
			}
			r.log.Debug("registry endpoint failed, the next is asked", "image", r.full, "endpoint", e.key, "error", redacted{err})
		}
	}
	if before == nil {
		return err
	}
	return fmt.Errorf("%w (before that, %s)", err, strings.Join(before, "; "))
}

// resolve asks what the reference leads to.
func (r *registry) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	return r.find(ctx, r.full)
}

// find asks what another reference of the same registry leads to.
func (r *registry) find(ctx context.Context, ref string) (desc ocispec.Descriptor, err error) {
	need := docker.HostCapabilityPull
	if !strings.Contains(ref, "@") {
		need |= docker.HostCapabilityResolve
	}
	err = r.retry(ctx, func() error {
		return r.each(ctx, need, nil, func(_ endpoint, from remotes.Resolver) error {
			var err error
			_, desc, err = from.Resolve(ctx, ref)
			return err
		})
	})
	if err != nil {
		return desc, err
	}
	return desc, checkDigest(desc.Digest)
}

// fetch opens a blob or manifest at a byte offset and says which endpoint it comes from.
// What the descriptor says of other places to fetch from is not followed.
func (r *registry) fetch(ctx context.Context, desc ocispec.Descriptor, offset int64, without map[string]bool) (rc io.ReadCloser, from string, err error) {
	desc.URLs, desc.Data = nil, nil
	err = r.each(ctx, docker.HostCapabilityPull, without, func(e endpoint, res remotes.Resolver) error {
		from = e.key
		rc, err = r.open(ctx, res, desc, offset)
		return err
	})
	return rc, from, err
}

// open waits for the first byte: before that an endpoint has not proved that it has the blob.
func (r *registry) open(ctx context.Context, res remotes.Resolver, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	fetcher, err := res.Fetcher(ctx, r.full)
	if err != nil {
		return nil, err
	}
	rc, err := fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		seeker, ok := rc.(io.Seeker)
		if !ok {
			err = fmt.Errorf("resume at byte %d: %w", offset, errdefs.ErrNotImplemented)
		} else {
			_, err = seeker.Seek(offset, io.SeekStart)
		}
	}
	body := bufio.NewReaderSize(rc, 32<<10)
	if err == nil {
		_, err = body.Peek(1)
	}
	if errors.Is(err, io.EOF) {
		err = nil
		if offset < desc.Size {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		rc.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{body, rc}, nil
}

// document fetches and checks something small. An endpoint that serves something else is
// passed over.
func (r *registry) document(ctx context.Context, desc ocispec.Descriptor, limit int64) (raw []byte, err error) {
	if err := checkDocument(desc, limit); err != nil {
		return nil, err
	}
	for {
		var from string
		err := r.retry(ctx, func() error {
			rc, key, err := r.fetch(ctx, desc, 0, nil)
			from = key
			if err != nil {
				return err
			}
			defer rc.Close()
			raw, err = io.ReadAll(newVerifier(rc, desc))
			return err
		})
		if err == nil || !untrue(err) || !r.distrust(from, servesWrong) {
			return raw, err
		}
	}
}
