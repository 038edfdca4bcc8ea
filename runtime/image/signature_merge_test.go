package image

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cricket-cri/cricket/runtime/image/trust"
)

// sameImage pushes one image to two repositories.
func sameImage(h *hub) pushed {
	plainEnv := func(c *ocispec.Image, _ *ocispec.Manifest) { c.Config.Env = nil }
	h.push("b", "1", plainEnv, plain("content"))
	return h.push("a", "1", plainEnv, plain("content"))
}

// TestSignaturesOfSeveralRepositories: a pull by one name leaves those of another alone,
// and those of its own are replaced.
func TestSignaturesOfSeveralRepositories(t *testing.T) {
	k, h, ours := signedKit(t)
	theirs := newSigner(t)
	theirs.policy(t, filepath.Join(k.opts.Trust.Dir, "tenant.json"))
	a, b := h.host+"/a:1", h.host+"/b:1"
	p := sameImage(h)
	ours.sign(t, h, "a", a, p.manifest.Digest)
	theirs.sign(t, h, "b", b, p.manifest.Digest)
	k.mustPull(t, a)
	for range 2 { // the second pull has the same signature to tell
		if _, err := k.Pull(t.Context(), b, nil, ForNamespace("tenant")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for ref, namespace := range map[string]string{a: "default", b: "tenant"} {
			if err := k.Allow(p.id, ref, namespace); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		}
		if n := len(k.entries[p.id].record.Signatures); n != 2 {
			t.Errorf("%d signatures are kept, want 2", n)
		}
		k.reopen(t)
	}
	young := newSigner(t)
	young.policy(t, k.opts.Trust.File)
	young.sign(t, h, "a", a, p.manifest.Digest)
	k.mustPull(t, a)
	ours.policy(t, k.opts.Trust.File)
	wantRefused(t, k.Allow(p.id, a, "default"), "not by a trusted key")
}

// TestSignaturesWithoutRepository: a record of an older version counts as it did, and its
// signatures are not kept twice.
func TestSignaturesWithoutRepository(t *testing.T) {
	k, h, s := signedKit(t)
	p := sameImage(h)
	s.sign(t, h, "a", h.host+"/a:1", p.manifest.Digest)
	k.mustPull(t, h.host+"/a:1")
	file := filepath.Join(k.opts.Root, p.id.Encoded()+recordSuffix)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Replace(string(raw), fmt.Sprintf(`"repository":"%s/a",`, h.host), "", 1)
	if old == string(raw) {
		t.Fatalf("no repository in %s", raw)
	}
	if err := os.WriteFile(file, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	k.reopen(t)
	if err := k.Allow(p.id, h.host+"/a:1", ""); err != nil {
		t.Error(err)
	}
	k.mustPull(t, h.host+"/a:1")
	if l := k.entries[p.id].record.Signatures; len(l) != 1 || l[0].Repository != h.host+"/a" {
		t.Errorf("signatures = %v, want one of the repository", l)
	}
}

// TestSignaturesAreBounded: repositories with as many as may be fetched neither make the
// record grow without end nor drive out one with few.
func TestSignaturesAreBounded(t *testing.T) {
	of := func(repo string, n, size int) (list []signed) {
		for range n {
			list = append(list, signed{"sha256:0", repo, trust.Signature{Payload: make([]byte, size), Base64: "AAAA"}})
		}
		return list
	}
	kept := of("small", 1, 300)
	var last string
	for i := range 20 {
		last = fmt.Sprintf("large/%d", i)
		kept = mergeSigned(kept, of(last, maxSignatures, maxPayload))
	}
	if n := signedBytes(kept); n > maxSigned {
		t.Errorf("%d bytes of signatures are kept, at most %d are allowed", n, maxSigned)
	}
	for _, repo := range []string{"small", last} {
		if !slices.ContainsFunc(kept, func(s signed) bool { return s.Repository == repo }) {
			t.Errorf("the signatures of %s are gone", repo)
		}
	}
}
