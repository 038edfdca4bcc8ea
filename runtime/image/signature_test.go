package image

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/cricket-cri/cricket/runtime/image/trust"
)

// signer signs images as cosign does.
type signer struct {
	signature.Signer
	pem []byte
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{s, pem}
}

// sign puts a signature of a digest beside the image, for the name that it claims.
func (s signer) sign(t *testing.T, h *hub, repo, claimed string, d digest.Digest) {
	t.Helper()
	payload := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, claimed, d)
	raw, err := s.SignMessage(strings.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	layer := h.blob(repo, []byte(payload))
	layer.MediaType = signatureMediaType
	layer.Annotations = map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(raw)}
	doc := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{layer}}
	doc.Config = h.blob(repo, []byte(`{}`))
	doc.Config.MediaType = ocispec.MediaTypeImageConfig
	h.manifest(repo, "sha256-"+d.Encoded()+".sig", doc.MediaType, doc)
}

// policy writes one that asks for this signer's signature of everything.
func (s signer) policy(t *testing.T, path string) {
	t.Helper()
	text := fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyData":%q}]}`, base64.StdEncoding.EncodeToString(s.pem))
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantRefused(t *testing.T, err error, says string) {
	t.Helper()
	if !errors.Is(err, trust.ErrRefused) || !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want a refusal with %q", err, says)
	}
}

// signedKit is a store with a policy, and the signer that it asks for.
func signedKit(t *testing.T) (*kit, *hub, signer) {
	s := newSigner(t)
	file := filepath.Join(t.TempDir(), "policy.json")
	s.policy(t, file)
	k := newKit(t, func(o *Options) { o.Trust = trust.Policies{File: file, Dir: filepath.Dir(file)} })
	return k, newHub(t), s
}

// TestSignedImages: what is signed comes in, and no layer of anything else does.
func TestSignedImages(t *testing.T) {
	for name, c := range map[string]struct {
		sign func(t *testing.T, h *hub, s signer, p pushed)
		says string // why not; empty if it is accepted
	}{
		"unsigned": {func(*testing.T, *hub, signer, pushed) {}, "no signature"},
		"signed": {func(t *testing.T, h *hub, s signer, p pushed) {
			s.sign(t, h, "app", h.host+"/app:1", p.manifest.Digest)
		}, ""},
		"by a stranger": {func(t *testing.T, h *hub, _ signer, p pushed) {
			newSigner(t).sign(t, h, "app", h.host+"/app:1", p.manifest.Digest)
		}, "not by a trusted key"},
		"for another name": {func(t *testing.T, h *hub, s signer, p pushed) {
			s.sign(t, h, "app", h.host+"/other:1", p.manifest.Digest)
		}, "for the name"},
		"for another image, under this one's tag": {func(t *testing.T, h *hub, s signer, p pushed) {
			other := digest.FromString("other")
			s.sign(t, h, "app", h.host+"/app:1", other)
			h.mu.Lock()
			h.manifests["app@sha256-"+p.manifest.Digest.Encoded()+".sig"] = h.manifests["app@sha256-"+other.Encoded()+".sig"]
			h.mu.Unlock()
		}, "another image"},
		"signature that cannot be fetched": {func(t *testing.T, h *hub, s signer, p pushed) {
			s.sign(t, h, "app", h.host+"/app:1", p.manifest.Digest)
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, ".sig") {
					w.WriteHeader(http.StatusInternalServerError)
				}
				return strings.HasSuffix(r.URL.Path, ".sig")
			})
		}, "fetch signatures"},
	} {
		t.Run(name, func(t *testing.T) {
			k, h, s := signedKit(t)
			p := h.push("app", "1", nil, gzipped("content"))
			c.sign(t, h, s, p)
			_, err := k.Pull(t.Context(), h.host+"/app:1", nil)
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says == "fetch signatures":
				if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v", err)
				}
				k.wantEmpty(t)
			case c.says != "":
				wantRefused(t, err, c.says)
				k.wantEmpty(t)
				for _, d := range h.fetched() {
					if d == p.doc.Layers[0].Digest.String() {
						t.Error("a layer was fetched")
					}
				}
			}
		})
	}
}

// TestSignedIndex: a signature of the index counts, and so does one of the manifest in it.
func TestSignedIndex(t *testing.T) {
	for _, signs := range []string{"index", "manifest", "neither"} {
		t.Run(signs, func(t *testing.T) {
			k, h, s := signedKit(t)
			p := h.push("app", "", nil, plain("content"))
			index := h.manifest("app", "1", ocispec.MediaTypeImageIndex, ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{p.manifest},
			})
			switch signs {
			case "index":
				s.sign(t, h, "app", h.host+"/app:1", index.Digest)
			case "manifest":
				s.sign(t, h, "app", h.host+"/app:1", p.manifest.Digest)
			}
			for range 2 { // the second time the image is known
				_, err := k.Pull(t.Context(), h.host+"/app:1", nil)
				if signs == "neither" {
					wantRefused(t, err, "no signature")
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestKnownImagesAreVerified: that an image is there under one name says nothing about
// another.
func TestKnownImagesAreVerified(t *testing.T) {
	k, h, s := signedKit(t)
	p := h.push("app", "1", nil, plain("content"))
	s.sign(t, h, "app", h.host+"/app:1", p.manifest.Digest)
	k.mustPull(t, h.host+"/app:1")
	h.push("copy", "1", nil, plain("content"))
	_, err := k.Pull(t.Context(), h.host+"/copy:1", nil)
	wantRefused(t, err, "no signature")
	if img, err := k.Get(h.host + "/app:1"); err != nil || len(img.RepoTags) != 1 {
		t.Errorf("got %v, %v", img.RepoTags, err)
	}
}

// TestAllow decides about containers without the registry, also after a restart and for
// policies that came later.
func TestAllow(t *testing.T) {
	k, h, s := signedKit(t)
	p := h.push("app", "1", nil, plain("content"))
	s.sign(t, h, "app", h.host+"/app:1", p.manifest.Digest)
	img := k.mustPull(t, h.host+"/app:1")
	other := newSigner(t)
	other.policy(t, filepath.Join(k.opts.Trust.Dir, "strict.json"))
	if err := os.WriteFile(filepath.Join(k.opts.Trust.Dir, "broken.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Server.Close()
	k.reopen(t)
	for _, ref := range []string{h.host + "/app:1", img.ID.String(), "", h.host + "/unknown:1", img.RepoDigests[0]} {
		if err := k.Allow(img.ID, ref, "default"); err != nil {
			t.Errorf("%q: %v", ref, err)
		}
		wantRefused(t, k.Allow(img.ID, ref, "strict"), "not by a trusted key")
	}
	if err := k.Allow(img.ID, "", "broken"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("with a broken policy: %v", err)
	}
	if err := k.Allow(digest.FromString("absent"), "", "default"); !errdefs.IsNotFound(err) {
		t.Errorf("of an image that is absent: %v", err)
	}
	other.policy(t, k.opts.Trust.File) // changed while the store runs
	wantRefused(t, k.Allow(img.ID, h.host+"/app:1", "default"), "not by a trusted key")
}

// TestNamespacesOfPolicies: the pull is decided by the policy of the pod's namespace.
func TestNamespacesOfPolicies(t *testing.T) {
	k, h, _ := signedKit(t)
	h.push("app", "1", nil, plain("content"))
	if err := os.WriteFile(filepath.Join(k.opts.Trust.Dir, "lab.json"), []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := k.Pull(t.Context(), h.host+"/app:1", nil, ForNamespace("default"))
	wantRefused(t, err, "no signature")
	img, err := k.Pull(t.Context(), h.host+"/app:1", nil, ForNamespace("lab"))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Allow(img.ID, h.host+"/app:1", "lab"); err != nil {
		t.Error(err)
	}
	wantRefused(t, k.Allow(img.ID, h.host+"/app:1", "default"), "no signature")
}

// TestManySignatures: a registry cannot make the store fetch or keep without bound.
func TestManySignatures(t *testing.T) {
	k, h, _ := signedKit(t)
	p := h.push("app", "1", nil, plain("content"))
	doc := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i := range 10 * maxSignatures {
		l := h.blob("app", fmt.Appendf(nil, "payload %d", i))
		l.MediaType, l.Annotations = signatureMediaType, map[string]string{signatureAnnotation: "AAAA"}
		doc.Layers = append(doc.Layers, l)
	}
	h.manifest("app", "sha256-"+p.manifest.Digest.Encoded()+".sig", doc.MediaType, doc)
	_, err := k.Pull(t.Context(), h.host+"/app:1", nil)
	wantRefused(t, err, "not by a trusted key")
	if n := len(h.fetched()); n > 2*maxSignatures {
		t.Errorf("%d blobs were fetched", n)
	}
	big := h.blob("app", make([]byte, maxPayload+1))
	big.MediaType, big.Annotations = signatureMediaType, map[string]string{signatureAnnotation: "AAAA"}
	for name, layers := range map[string][]ocispec.Descriptor{"a payload that is too large": {big}, "a list without end": make([]ocispec.Descriptor, maxList+1)} {
		doc.Layers = layers
		h.manifest("app", "sha256-"+p.manifest.Digest.Encoded()+".sig", doc.MediaType, doc)
		if _, err := k.Pull(t.Context(), h.host+"/app:1", nil); !errdefs.IsFailedPrecondition(err) || errors.Is(err, trust.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.wantEmpty(t)
}
