package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/runtime/image/trust"
)

// How cosign keeps signatures in a registry: an image under a tag made of the digest that
// was signed, with a layer for each (its SIGNATURE_SPEC.md).
const (
	signatureSuffix     = ".sig"
	signatureMediaType  = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
)

// What a registry may make us fetch and keep.
const (
	maxSignatures = 32
	maxPayload    = 64 << 10
	maxBase64     = 4 << 10
	maxSigned     = 4 << 20 // what those of all repositories take in one record
)

// signed is a signature in a record. Digest is the one it was fetched for, of the image's
// manifest or of the index that led to it.
type signed struct {
	Digest digest.Digest `json:"digest"`
	// Repository is where it was fetched from; empty in records of older versions.
	Repository string `json:"repository,omitempty"`
	trust.Signature
}

// bytes is what it takes in a record.
func (s signed) bytes() int {
	raw, _ := json.Marshal(s) // strings and bytes cannot fail
	return len(raw)
}

// mergeSigned puts the signatures of one repository, at least one, in place of those it
// had, and keeps the others': the image is used under their names, too.
//
// If there are too many, the repository that takes the most loses its own, so that
// one with many cannot drive out the others'.
func mergeSigned(old, young []signed) []signed {
	kept := slices.DeleteFunc(slices.Clone(old), func(s signed) bool {
		return s.Repository == young[0].Repository || s.Repository == "" && slices.ContainsFunc(young, s.same)
	})
	for len(kept) > 0 && signedBytes(young)+signedBytes(kept) > maxSigned {
		heaviest := heaviestRepository(kept)
		kept = slices.DeleteFunc(kept, func(s signed) bool { return s.Repository == heaviest })
	}
	return append(kept, young...)
}

// same compares without the repository.
func (s signed) same(other signed) bool {
	return s.Digest == other.Digest && s.Base64 == other.Base64 && bytes.Equal(s.Payload, other.Payload)
}

func signedBytes(list []signed) (n int) {
	for _, s := range list {
		n += s.bytes()
	}
	return n
}

func heaviestRepository(list []signed) (heaviest string) {
	sums := map[string]int{}
	for _, s := range list {
		if sums[s.Repository] += s.bytes(); sums[s.Repository] > sums[heaviest] {
			heaviest = s.Repository
		}
	}
	return heaviest
}

// verify asks the policy whether the image may come in. The signatures are kept, so that
// containers can be decided on without the registry.
func (p *pull) verify(ctx context.Context) error {
	if !p.store.opts.Trust.Enabled() {
		return nil
	}
	policy, err := p.store.opts.Trust.For(p.namespace)
	if err != nil || policy == nil {
		return err
	}
	name, err := trust.ParseName(p.name.full)
	if err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	digests := slices.Compact([]digest.Digest{p.target.Digest, p.source.manifest})
	if policy.NeedsSignatures(name) {
		for _, d := range digests {
			if err := p.signatures(ctx, d); err != nil {
				return fmt.Errorf("fetch signatures of %s: %w", d, err)
			}
		}
	}
	return refusal(policy.Check(trust.Image{Name: name, Digests: digests, Signatures: plainSignatures(p.signed)}))
}

// refusal gives a policy's decision its kind.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", errdefs.ErrPermissionDenied, err)
}

func plainSignatures(all []signed) []trust.Signature {
	var plain []trust.Signature
	for _, s := range all {
		plain = append(plain, s.Signature)
	}
	return plain
}

// signatures fetches what was signed of one digest; there may be nothing.
func (p *pull) signatures(ctx context.Context, of digest.Digest) error {
	ref := p.name.repo + ":" + of.Algorithm().String() + "-" + of.Encoded() + signatureSuffix
	desc, err := p.reg.find(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := p.reg.document(ctx, desc, maxManifest)
	if err != nil {
		return err
	}
	doc, err := parseDocument(raw)
	if err != nil {
		return fmt.Errorf("read %s: %w", ref, err)
	}
	for _, l := range doc.Layers {
		text := l.Annotations[signatureAnnotation]
		if l.MediaType != signatureMediaType || text == "" || len(text) > maxBase64 {
			continue
		}
		if len(p.signed) == maxSignatures {
			return nil // a policy that they do not satisfy refuses the image
		}
		payload, err := p.reg.document(ctx, l, maxPayload)
		if err != nil {
			return err
		}
		p.signed = append(p.signed, signed{of, p.name.repo, trust.Signature{Payload: payload, Base64: text}})
	}
	return nil
}

// Allow decides whether a container of a pod in the namespace may use an image that is
// here, going by the signatures that came with the last pull from each repository. ref is what the user called
// it; where that does not lead to the image, any of its names counts. The error is
// ErrPermissionDenied and wraps trust.ErrRefused.
func (s *Store) Allow(id digest.Digest, ref, namespace string) error {
	if !s.opts.Trust.Enabled() {
		return nil
	}
	policy, err := s.opts.Trust.For(namespace)
	if err != nil || policy == nil {
		return err
	}
	s.mu.RLock()
	e, ok := s.entries[id]
	names := append(slices.Clone(e.image.RepoTags), e.image.RepoDigests...)
	if n, err := parseName(ref); err == nil && s.names[n.full] == id {
		names = []string{n.full}
	}
	s.mu.RUnlock()
	if !ok {
		return fmt.Errorf("find image %q: %w", id, errdefs.ErrNotFound)
	}
	refused := fmt.Errorf("image %s: %w: it has no name", id, trust.ErrRefused)
	for _, text := range names {
		name, err := trust.ParseName(text)
		if err != nil {
			continue
		}
		if refused = policy.Check(e.record.trusted(name)); refused == nil {
			return nil
		}
	}
	return refusal(refused)
}

// trusted is what a policy is told of an image that is here.
func (r record) trusted(name trust.Name) trust.Image {
	i := trust.Image{Name: name, Signatures: plainSignatures(r.Signatures)}
	for _, s := range r.Signatures {
		i.Digests = append(i.Digests, s.Digest)
	}
	return i
}
