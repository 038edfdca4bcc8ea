package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/cricket-cri/cricket/test/images"
)

// keyPair signs like cosign; the policy that asks for it is written to a file.
type keyPair struct {
	signer signature.Signer
	pem    []byte
}

func newKeyPair(t *testing.T) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{signer, pem}
}

// sign returns an image that holds the signature, and its tag in the image's repository.
func (k keyPair) sign(t *testing.T, ref string, img v1.Image) (tag string, signatures v1.Image) {
	t.Helper()
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	repository := ref[:strings.LastIndexByte(ref, ':')]
	named, err := name.NewDigest(repository + "@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	text, err := payload.Cosign{Image: named, ClaimedIdentity: ref}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := k.signer.SignMessage(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	signatures, err = mutate.Append(empty.Image, mutate.Addendum{
		Layer:       static.NewLayer(text, types.MediaType("application/vnd.dev.cosign.simplesigning.v1+json")),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(raw)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return repository + ":sha256-" + digest.Hex + ".sig", signatures
}

// TestSignaturePolicy: pulls and containers, and what containers mount, are decided by the
// policy of the pod's namespace, with the word that the kubelet knows.
func TestSignaturePolicy(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("config.toml", fmt.Sprintf("[images]\nsignature_policy = %q\nsignature_policy_dir = %q\n", filepath.Join(dir, "policy.json"), dir))
	write("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	n := Start(t, "--config", config)
	r, host := n.private(func(string) func(http.ResponseWriter, *http.Request) bool {
		return func(http.ResponseWriter, *http.Request) bool { return false }
	})
	key := newKeyPair(t)
	write("strict.json", fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"sigstoreSigned","keyData":%q}]}}}`,
		host, base64.StdEncoding.EncodeToString(key.pem)))
	signedRef, plainRef := host+"/signed:1", host+"/plain:1"
	img := n.on(images.Busybox, tarOf(t, file("data", []byte("signed"))))
	tag, signatures := key.sign(t, signedRef, img)
	for ref, i := range map[string]v1.Image{signedRef: img, tag: signatures, plainRef: n.on(images.Busybox, tarOf(t, file("data", []byte("plain"))))} {
		if err := r.Add(t.TempDir(), ref, i); err != nil {
			t.Fatal(err)
		}
	}
	pull := func(ref, namespace string) error {
		_, err := n.Images.PullImage(t.Context(), &cri.PullImageRequest{
			Image:         &cri.ImageSpec{Image: ref},
			SandboxConfig: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p", Uid: "u", Namespace: namespace}},
		})
		return err
	}
	refused := func(err error) {
		t.Helper()
		WantCode(t, err, codes.PermissionDenied)
		if err != nil && !strings.Contains(err.Error(), crierrors.ErrSignatureValidationFailed.Error()) {
			t.Errorf("the kubelet's word is missing: %v", err)
		}
	}
	refused(pull(plainRef, "strict"))
	refused(pull(images.Busybox, "strict"))
	WantCode(t, pull(signedRef, "strict"), codes.OK)
	WantCode(t, pull(plainRef, "default"), codes.OK)

	pod := n.PodConfig()
	pod.Metadata.Namespace = "strict"
	id := n.RunPod(pod)
	create := func(change func(*cri.ContainerConfig)) error {
		c := n.ContainerConfig("sleep", "1000")
		c.Image = &cri.ImageSpec{Image: plainRef, UserSpecifiedImage: plainRef}
		change(c)
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: id, Config: c, SandboxConfig: pod})
		return err
	}
	refused(create(func(*cri.ContainerConfig) {}))
	refused(create(func(c *cri.ContainerConfig) {
		c.Image = &cri.ImageSpec{Image: signedRef, UserSpecifiedImage: signedRef}
		c.Mounts = []*cri.Mount{{ContainerPath: "/plain", Image: &cri.ImageSpec{Image: plainRef}, Readonly: true}}
	}))
	WantCode(t, create(func(c *cri.ContainerConfig) {
		c.Image = &cri.ImageSpec{Image: signedRef, UserSpecifiedImage: signedRef}
	}), codes.OK)

	write("strict.json", `{"default":`) // never mistaken for no policy
	WantCode(t, pull(signedRef, "strict"), codes.FailedPrecondition)
	WantCode(t, create(func(*cri.ContainerConfig) {}), codes.FailedPrecondition)
}
