package images

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

//go:embed conformance.go
var conformanceSource []byte

// again are images of Build under the names and versions that Kubernetes' own suite has
// for them.
var again = map[string]string{
	e2e + "busybox:1.37.0-2": Busybox,
	e2e + "nginx:1.27.0-2":   Nginx,
	e2e + "nginx:1.28.0-2":   Nginx,
	e2e + "nonewprivs:1.4":   e2e + "nonewprivs:1.3",
}

// networkTools is a tree of Debian with the programs that specs call in agnhost's image.
var networkTools = debianTree{packages: "bind9-dnsutils,curl,wget,netcat-openbsd,iproute2,socat,iperf,procps"}

// BuildConformance returns the images that the conformance specs of Kubernetes' own suite
// name, making them first if the cache does not hold them. base is what Build returned. It
// needs mmdebstrap, and the network only when it builds.
func BuildConformance(ctx context.Context, o Options, base *Set, p Programs) (*Set, error) {
	sum := sha256.Sum256(fmt.Appendf(conformanceSource, "%+v %s", p, base.Dir()))
	set, err := o.keep("conformance-"+hex.EncodeToString(sum[:8]), func(work string) error {
		o.Say("build the images of the conformance specs, with packages of Debian")
		return buildConformance(ctx, work, base, p)
	})
	if err != nil {
		return nil, fmt.Errorf("build images of the conformance specs: %w", err)
	}
	return set, nil
}

func buildConformance(ctx context.Context, work string, base *Set, p Programs) error {
	tree := filepath.Join(work, "tree.tar")
	if err := networkTools.unpack(ctx, work, tree); err != nil {
		return err
	}
	agnhost, err := os.ReadFile(p.Agnhost)
	if err != nil {
		return err
	}
	m := &maker{images: map[string]mutate.Appendable{}}
	for name, old := range again {
		if m.images[name], err = base.Image(old); err != nil {
			return err
		}
	}
	m.agnhosts(m.debian(tree, v1.Config{}), agnhost, p)
	if m.err != nil {
		return m.err
	}
	if err := write(work, m.images); err != nil {
		return err
	}
	return os.Remove(tree)
}

// agnhosts are agnhost's image and those that upstream derives from it.
func (m *maker) agnhosts(tools v1.Image, program []byte, p Programs) {
	m.images[e2e+"glibc-dns-testing:2.1.1"] = tools
	cert, key, err := selfSigned()
	if err != nil {
		m.fail(err)
		return
	}
	files := (&tree{}).file("agnhost", 0o755, program).hardlink("agnhost-2", "agnhost").dir("uploads", 0o755).
		file("localhost.crt", 0o644, cert).file("localhost.key", 0o644, key)
	agnhost := m.image(tools, files,
		func(c *v1.Config) {
			c.Entrypoint, c.Cmd = []string{"/agnhost"}, []string{"pause"}
		})
	m.images[p.AgnhostImage()] = agnhost
	// A release before: specs update from one to the other.
	m.images[e2e+"agnhost:2.55"] = m.configured(agnhost, func(c *v1.Config) { c.Labels = map[string]string{"version": "2.55"} })
	for _, name := range []string{"kitten", "nautilus"} {
		// A spec looks for the distribution's name to see that it has the image before it.
		page := (&tree{}).file("data.json", 0o644, []byte(`{"image": "`+name+`.jpg"}`+"\n")).
			file("etc/os-release", 0o644, []byte("NAME=\"Debian's programs instead of those of Alpine Linux\"\n"))
		m.images[e2e+name+":1.8"] = m.image(agnhost, page, func(c *v1.Config) { c.Cmd = []string{"test-webserver"} })
	}
}

// selfSigned makes the certificate with which agnhost serves HTTPS; nobody checks it.
func selfSigned() (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().AddDate(100, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}
