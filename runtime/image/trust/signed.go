package trust

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// Image is what a decision is about.
type Image struct {
	Name Name
	// Digests are those of the manifest and of the index that led to it. A signature for
	// either will do: the index names the manifest by its digest.
	Digests    []digest.Digest
	Signatures []Signature
}

// Signature is one of cosign's as it lies in a registry.
type Signature struct {
	Payload []byte `json:"payload"`
	// Base64 is the signature of the payload, the annotation dev.cosignproject.cosign/signature.
	Base64 string `json:"signature"`
}

// signedForm is requirement sigstoreSigned as it is written.
type signedForm struct {
	Type           string          `json:"type"`
	KeyPath        string          `json:"keyPath"`
	KeyPaths       []string        `json:"keyPaths"`
	KeyData        []byte          `json:"keyData"`
	KeyDatas       [][]byte        `json:"keyDatas"`
	SignedIdentity json.RawMessage `json:"signedIdentity"`

	// What would have to be checked, and cannot be.
	Fulcio              json.RawMessage `json:"fulcio"`
	PKI                 json.RawMessage `json:"pki"`
	RekorPublicKeyPath  json.RawMessage `json:"rekorPublicKeyPath"`
	RekorPublicKeyPaths json.RawMessage `json:"rekorPublicKeyPaths"`
	RekorPublicKeyData  json.RawMessage `json:"rekorPublicKeyData"`
	RekorPublicKeyDatas json.RawMessage `json:"rekorPublicKeyDatas"`
}

// signed asks for a signature by one of the keys, for a name that the identity accepts.
type signed struct {
	keys     []signature.Verifier
	identity identity
}

func (signed) signed() bool { return true }

func parseSigned(raw json.RawMessage) (requirement, error) {
	var f signedForm
	if err := strict(raw, &f); err != nil {
		return nil, err
	}
	for _, u := range []struct {
		field string
		value json.RawMessage
	}{
		{"fulcio", f.Fulcio}, {"pki", f.PKI}, {"rekorPublicKeyPath", f.RekorPublicKeyPath}, {"rekorPublicKeyPaths", f.RekorPublicKeyPaths},
		{"rekorPublicKeyData", f.RekorPublicKeyData}, {"rekorPublicKeyDatas", f.RekorPublicKeyDatas},
	} {
		if u.value != nil {
			return nil, fmt.Errorf("%s is not supported: only public keys are", u.field)
		}
	}
	keys, err := f.keys()
	if err != nil {
		return nil, err
	}
	id, err := parseIdentity(f.SignedIdentity)
	if err != nil {
		return nil, fmt.Errorf("signedIdentity: %w", err)
	}
	return signed{keys, id}, nil
}

// keys reads the public keys, which come in exactly one of four forms.
func (f signedForm) keys() ([]signature.Verifier, error) {
	paths, datas, forms := f.KeyPaths, f.KeyDatas, 0
	for _, given := range []bool{f.KeyPath != "", f.KeyPaths != nil, f.KeyData != nil, f.KeyDatas != nil} {
		if given {
			forms++
		}
	}
	if forms != 1 {
		return nil, errors.New("exactly one of keyPath, keyPaths, keyData and keyDatas is needed")
	}
	if f.KeyPath != "" {
		paths = []string{f.KeyPath}
	}
	if f.KeyData != nil {
		datas = [][]byte{f.KeyData}
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		datas = append(datas, raw)
	}
	if len(datas) == 0 {
		return nil, errors.New("the list of keys is empty")
	}
	var keys []signature.Verifier
	for i, raw := range datas {
		key, err := cryptoutils.UnmarshalPEMToPublicKey(raw)
		if err != nil {
			return nil, fmt.Errorf("read public key %d: %w", i+1, err)
		}
		v, err := signature.LoadVerifier(key, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("read public key %d: %w", i+1, err)
		}
		keys = append(keys, v)
	}
	return keys, nil
}

// check looks for one good signature. Why each of the others is not explains a refusal.
func (s signed) check(i Image) error {
	if len(i.Signatures) == 0 {
		return errors.New("it has no signature")
	}
	var reasons []error
	for _, sig := range i.Signatures {
		err := s.verify(i, sig)
		if err == nil {
			return nil
		}
		reasons = append(reasons, err)
	}
	return errors.Join(reasons...)
}

func (s signed) verify(i Image, sig Signature) error {
	raw, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	if !slices.ContainsFunc(s.keys, func(k signature.Verifier) bool {
		return k.VerifySignature(bytes.NewReader(raw), bytes.NewReader(sig.Payload)) == nil
	}) {
		return errors.New("a signature is not by a trusted key")
	}
	// Only now is it worth reading.
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(sig.Payload, &p); err != nil {
		return fmt.Errorf("signed payload: %w", err)
	}
	if p.Critical.Type != payload.CosignSignatureType {
		return fmt.Errorf("signed payload is of type %q", p.Critical.Type)
	}
	if !slices.Contains(i.Digests, digest.Digest(p.Critical.Image.DockerManifestDigest)) {
		return fmt.Errorf("a signature is for another image, %s", p.Critical.Image.DockerManifestDigest)
	}
	if claimed := p.Critical.Identity.DockerReference; !s.identity.accepts(i.Name, claimed) {
		return fmt.Errorf("a signature is for the name %q", claimed)
	}
	return nil
}
