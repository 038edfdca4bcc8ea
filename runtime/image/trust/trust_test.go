package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// signer makes signatures as cosign does.
type signer struct {
	signature.Signer
	pem []byte
}

func newSigner(t *testing.T, key crypto.PrivateKey) signer {
	t.Helper()
	s, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	public, err := s.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		t.Fatal(err)
	}
	return signer{s, pem}
}

func ecdsaSigner(t *testing.T) signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

func (s signer) sign(t *testing.T, payload string) Signature {
	t.Helper()
	raw, err := s.SignMessage(strings.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Payload: []byte(payload), Base64: base64.StdEncoding.EncodeToString(raw)}
}

func payloadOf(kind, ref string, d digest.Digest) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, ref, d, kind)
}

const cosign = "cosign container image signature"

func mustParse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return p
}

func mustName(t *testing.T, text string) Name {
	t.Helper()
	n, err := ParseName(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var one, two = digest.FromString("one"), digest.FromString("two")

// TestScopes checks that the narrowest scope decides, as containers-policy.json(5) says.
func TestScopes(t *testing.T) {
	const rejected, accepted = `[{"type":"reject"}]`, `[{"type":"insecureAcceptAnything"}]`
	for name, c := range map[string]struct {
		scopes, fallback, image string
		accepts                 bool
	}{
		"default":                  {`{}`, rejected, "busybox", false},
		"default accepts":          {`{}`, accepted, "busybox", true},
		"transport's own":          {`{"":` + accepted + `}`, rejected, "busybox", true},
		"registry":                 {`{"docker.io":` + accepted + `}`, rejected, "busybox", true},
		"another registry":         {`{"quay.io":` + accepted + `}`, rejected, "busybox", false},
		"namespace":                {`{"docker.io/library":` + accepted + `}`, rejected, "busybox", true},
		"no part of a name":        {`{"docker.io/lib":` + accepted + `}`, rejected, "busybox", false},
		"repository":               {`{"docker.io":` + accepted + `,"docker.io/library/busybox":` + rejected + `}`, accepted, "busybox", false},
		"tag":                      {`{"docker.io/library/busybox":` + rejected + `,"docker.io/library/busybox:1":` + accepted + `}`, rejected, "busybox:1", true},
		"another tag":              {`{"docker.io/library/busybox":` + rejected + `,"docker.io/library/busybox:1":` + accepted + `}`, accepted, "busybox:2", false},
		"digest":                   {`{"docker.io/library/busybox@` + one.String() + `":` + accepted + `}`, rejected, "busybox:9@" + one.String(), true},
		"port":                     {`{"r.example:5000/a":` + accepted + `}`, rejected, "r.example:5000/a/b:1", true},
		"without the port":         {`{"r.example/a":` + accepted + `}`, rejected, "r.example:5000/a/b:1", false},
		"domain":                   {`{"*.example":` + accepted + `}`, rejected, "r.example/a", true},
		"domain above":             {`{"*.example":` + accepted + `}`, rejected, "a.r.example/a", true},
		"domain, whatever port":    {`{"*.example":` + accepted + `}`, rejected, "r.example:5000/a", true},
		"narrower domain":          {`{"*.example":` + accepted + `,"*.r.example":` + rejected + `}`, accepted, "a.r.example/a", false},
		"registry before domain":   {`{"*.example":` + rejected + `,"r.example":` + accepted + `}`, rejected, "r.example/a", true},
		"all requirements count":   {`{"quay.io":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}`, accepted, "quay.io/a", false},
		"other transports' scopes": {`{}},"docker-daemon":{"":` + accepted + `}`, rejected, "busybox", false},
	} {
		t.Run(name, func(t *testing.T) {
			transports := `{"docker":` + c.scopes + `}`
			if strings.Contains(c.scopes, "docker-daemon") {
				transports = `{"docker":{},"docker-daemon":{"":` + accepted + `}}`
			}
			p := mustParse(t, `{"default":`+c.fallback+`,"transports":`+transports+`}`)
			err := p.Check(Image{Name: mustName(t, c.image)})
			if (err == nil) != c.accepts || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("got %v, want accepted %t", err, c.accepts)
			}
		})
	}
}

// TestPoliciesThatAreRefused: what cannot be checked must not be taken for checked.
func TestPoliciesThatAreRefused(t *testing.T) {
	key := base64.StdEncoding.EncodeToString(ecdsaSigner(t).pem)
	signedWith := func(more string) string {
		return `{"default":[{"type":"sigstoreSigned","keyData":"` + key + `"` + more + `}]}`
	}
	mustParse(t, signedWith(""))
	for name, c := range map[string]struct{ policy, says string }{
		"empty":              {``, "EOF"},
		"no default":         {`{}`, "default: at least one"},
		"empty default":      {`{"default":[]}`, "default: at least one"},
		"two documents":      {`{"default":[{"type":"reject"}]}{}`, "follows the end"},
		"unknown field":      {`{"default":[{"type":"reject"}],"transport":{}}`, "transport"},
		"unknown type":       {`{"default":[{"type":"rejekt"}]}`, "rejekt"},
		"unknown detail":     {`{"default":[{"type":"reject","unless":1}]}`, "unless"},
		"GPG":                {`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}`, "signedBy"},
		"empty scope":        {`{"default":[{"type":"reject"}],"transports":{"docker":{"quay.io":[]}}}`, `docker["quay.io"]`},
		"no key":             {`{"default":[{"type":"sigstoreSigned"}]}`, "exactly one of"},
		"two forms of keys":  {signedWith(`,"keyPath":"/k"`), "exactly one of"},
		"empty list of keys": {`{"default":[{"type":"sigstoreSigned","keyDatas":[]}]}`, "empty"},
		"key that is none":   {`{"default":[{"type":"sigstoreSigned","keyData":"aGVsbG8="}]}`, "public key"},
		"key that is absent": {`{"default":[{"type":"sigstoreSigned","keyPath":"/does/not/exist"}]}`, "/does/not/exist"},
		"Fulcio":             {signedWith(`,"fulcio":{"caPath":"/c"}`), "fulcio is not supported"},
		"Rekor":              {signedWith(`,"rekorPublicKeyPath":"/r"`), "rekorPublicKeyPath is not supported"},
		"unknown identity":   {signedWith(`,"signedIdentity":{"type":"any"}`), "signedIdentity"},
		"foreign field":      {signedWith(`,"signedIdentity":{"type":"matchExact","prefix":"a"}`), "signedIdentity"},
		"no tag in identity": {signedWith(`,"signedIdentity":{"type":"exactReference","dockerReference":"quay.io/a"}`), "tag or digest"},
		"half a remap":       {signedWith(`,"signedIdentity":{"type":"remapIdentity","prefix":"a"}`), "signedPrefix"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(c.policy)); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
}

// TestKeys verifies signatures by every kind of key that cosign makes or imports.
func TestKeys(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger := ecdsaSigner(t)
	for name, s := range map[string]signer{"ECDSA": ecdsaSigner(t), "RSA": newSigner(t, rsaKey), "Ed25519": newSigner(t, edKey)} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key.pub")
			if err := os.WriteFile(file, s.pem, 0o644); err != nil {
				t.Fatal(err)
			}
			pems, _ := json.Marshal([][]byte{stranger.pem, s.pem})
			for form, field := range map[string]string{
				"path": fmt.Sprintf(`"keyPath":%q`, file), "data": fmt.Sprintf(`"keyData":%q`, base64.StdEncoding.EncodeToString(s.pem)),
				"one of several": `"keyDatas":` + string(pems), "paths": fmt.Sprintf(`"keyPaths":[%q]`, file),
			} {
				p := mustParse(t, `{"default":[{"type":"sigstoreSigned",`+field+`}]}`)
				i := Image{Name: mustName(t, "quay.io/a:1"), Digests: []digest.Digest{one}}
				if err := p.Check(i); !errors.Is(err, ErrRefused) {
					t.Errorf("%s: without a signature: %v", form, err)
				}
				i.Signatures = []Signature{stranger.sign(t, "{}"), s.sign(t, payloadOf(cosign, "quay.io/a:1", one))}
				if err := p.Check(i); err != nil {
					t.Errorf("%s: %v", form, err)
				}
			}
		})
	}
}

// TestSignatures refuses each signature that says something else than it has to.
func TestSignatures(t *testing.T) {
	s, stranger := ecdsaSigner(t), ecdsaSigner(t)
	p := mustParse(t, `{"default":[{"type":"sigstoreSigned","keyData":"`+base64.StdEncoding.EncodeToString(s.pem)+`"}]}`)
	good := s.sign(t, payloadOf(cosign, "quay.io/a:1", one))
	forged := good
	forged.Payload = bytes.Replace(good.Payload, []byte(one), []byte(two), 1)
	for name, c := range map[string]struct {
		signature Signature
		says      string
	}{
		"good":           {good, ""},
		"of a stranger":  {stranger.sign(t, string(good.Payload)), "not by a trusted key"},
		"forged":         {forged, "not by a trusted key"},
		"not base64":     {Signature{good.Payload, "%"}, "base64"},
		"empty":          {Signature{good.Payload, ""}, "not by a trusted key"},
		"another image":  {s.sign(t, payloadOf(cosign, "quay.io/a:1", two)), "another image"},
		"another tag":    {s.sign(t, payloadOf(cosign, "quay.io/a:2", one)), `"quay.io/a:2"`},
		"without a tag":  {s.sign(t, payloadOf(cosign, "quay.io/a", one)), `"quay.io/a"`},
		"another type":   {s.sign(t, payloadOf("atomic container signature", "quay.io/a:1", one)), "type"},
		"no JSON":        {s.sign(t, "hello"), "payload"},
		"no name at all": {s.sign(t, payloadOf(cosign, "", one)), `""`},
	} {
		t.Run(name, func(t *testing.T) {
			err := p.Check(Image{Name: mustName(t, "quay.io/a:1"), Digests: []digest.Digest{one}, Signatures: []Signature{c.signature}})
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
		})
	}
}

// TestIdentities compares names as containers-policy.json(5) says.
func TestIdentities(t *testing.T) {
	for name, c := range map[string]struct {
		identity, image, claimed string
		accepts                  bool
	}{
		"default, tag":                    {``, "quay.io/a:1", "quay.io/a:1", true},
		"default, other tag":              {``, "quay.io/a:1", "quay.io/a:2", false},
		"default, digest":                 {``, "quay.io/a@" + one.String(), "quay.io/a:2", true},
		"default, digest, other":          {``, "quay.io/a@" + one.String(), "quay.io/b:2", false},
		"default, short names":            {``, "busybox", "busybox:latest", true},
		"exact, digest":                   {`{"type":"matchExact"}`, "quay.io/a@" + one.String(), "quay.io/a:2", false},
		"exact":                           {`{"type":"matchExact"}`, "quay.io/a:2", "quay.io/a:2", true},
		"repository":                      {`{"type":"matchRepository"}`, "quay.io/a:1", "quay.io/a", true},
		"other repository":                {`{"type":"matchRepository"}`, "quay.io/a:1", "quay.io/a/b", false},
		"exactReference":                  {`{"type":"exactReference","dockerReference":"quay.io/x:1"}`, "quay.io/a:1", "quay.io/x:1", true},
		"exactReference, image's own":     {`{"type":"exactReference","dockerReference":"quay.io/x:1"}`, "quay.io/a:1", "quay.io/a:1", false},
		"exactRepository":                 {`{"type":"exactRepository","dockerRepository":"quay.io/x"}`, "quay.io/a:1", "quay.io/x:7", true},
		"exactRepository, image's own":    {`{"type":"exactRepository","dockerRepository":"quay.io/x"}`, "quay.io/a:1", "quay.io/a:1", false},
		"remap":                           {`{"type":"remapIdentity","prefix":"mirror.example/m","signedPrefix":"quay.io"}`, "mirror.example/m/a:1", "quay.io/a:1", true},
		"remap, half a name":              {`{"type":"remapIdentity","prefix":"mirror.example/m","signedPrefix":"quay.io"}`, "mirror.example/mm/a:1", "quay.io/m/a:1", false},
		"remap, elsewhere it is the same": {`{"type":"remapIdentity","prefix":"mirror.example/m","signedPrefix":"quay.io"}`, "gcr.io/a:1", "gcr.io/a:1", true},
		"garbage":                         {`{"type":"matchRepository"}`, "quay.io/a:1", "Not A Name", false},
	} {
		t.Run(name, func(t *testing.T) {
			var raw json.RawMessage
			if c.identity != "" {
				raw = json.RawMessage(c.identity)
			}
			id, err := parseIdentity(raw)
			if err != nil {
				t.Fatal(err)
			}
			if got := id.accepts(mustName(t, c.image), c.claimed); got != c.accepts {
				t.Errorf("accepts = %t", got)
			}
		})
	}
}

// TestPolicies finds the file that counts, and takes none that is broken for none.
func TestPolicies(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	node := write("node.json", `{"default":[{"type":"reject"}]}`)
	write("lenient.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	write("broken.json", `{`)
	write("nokey.json", `{"default":[{"type":"sigstoreSigned","keyPath":"/does/not/exist"}]}`)
	if err := os.Symlink(filepath.Join(dir, "gone"), filepath.Join(dir, "dangling.json")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		policies  Policies
		namespace string
		want      string // accept, reject, none or error
	}{
		"nothing":                 {Policies{}, "a", "none"},
		"node":                    {Policies{File: node}, "a", "reject"},
		"node, no namespace":      {Policies{File: node, Dir: dir}, "", "reject"},
		"namespace":               {Policies{File: node, Dir: dir}, "lenient", "accept"},
		"namespace without":       {Policies{File: node, Dir: dir}, "other", "reject"},
		"only namespaces":         {Policies{Dir: dir}, "other", "none"},
		"broken":                  {Policies{File: node, Dir: dir}, "broken", "error"},
		"key missing":             {Policies{File: node, Dir: dir}, "nokey", "error"},
		"key missing, no node's":  {Policies{Dir: dir}, "nokey", "error"},
		"link to nowhere":         {Policies{Dir: dir}, "dangling", "error"},
		"missing":                 {Policies{File: filepath.Join(dir, "gone")}, "a", "error"},
		"no directory":            {Policies{File: node, Dir: filepath.Join(dir, "gone")}, "a", "error"},
		"no directory, no node's": {Policies{Dir: node}, "a", "error"},
		"no directory, no pod":    {Policies{File: node, Dir: filepath.Join(dir, "gone")}, "", "reject"},
		"namespace that is a way": {Policies{File: node, Dir: dir + "/sub"}, "../lenient", "reject"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := c.policies.For(c.namespace)
			got := "accept"
			switch {
			case err != nil && errdefs.IsFailedPrecondition(err):
				got = "error"
			case err != nil:
				t.Fatal(err)
			case p == nil:
				got = "none"
			case p.Check(Image{Name: mustName(t, "a")}) != nil:
				got = "reject"
			}
			if got != c.want {
				t.Errorf("got %s (%v), want %s", got, err, c.want)
			}
		})
	}
}
