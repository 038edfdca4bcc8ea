package images

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// Programs are what the images of a cluster are made around: paths of static programs,
// which name their versions.
type Programs struct {
	CoreDNS, CoreDNSVersion string
	Agnhost, AgnhostVersion string
}

// CoreDNSImage and AgnhostImage are the images' names with a tag.
func (p Programs) CoreDNSImage() string {
	return "registry.k8s.io/coredns/coredns:" + p.CoreDNSVersion
}

func (p Programs) AgnhostImage() string { return e2e + "agnhost:" + p.AgnhostVersion }

//go:embed cluster.go
var clusterSource []byte

// BuildCluster returns the images of a cluster's own pods and of the workloads that its
// tests run, making them first if the cache does not hold them. base is what Build returned.
func BuildCluster(_ context.Context, o Options, base *Set, p Programs) (*Set, error) {
	// The programs' paths hold the hash of what they were built from.
	sum := sha256.Sum256(fmt.Appendf(clusterSource, "%+v %s", p, base.Dir()))
	set, err := o.keep("cluster-"+hex.EncodeToString(sum[:8]), func(work string) error {
		o.Say("build the images of a cluster")
		return buildCluster(work, base, p)
	})
	if err != nil {
		return nil, fmt.Errorf("build images of a cluster: %w", err)
	}
	return set, nil
}

func buildCluster(work string, base *Set, p Programs) error {
	box, err := base.Image(Busybox)
	if err != nil {
		return err
	}
	coredns, err := os.ReadFile(p.CoreDNS)
	if err != nil {
		return err
	}
	agnhost, err := os.ReadFile(p.Agnhost)
	if err != nil {
		return err
	}
	m := &maker{images: map[string]mutate.Appendable{}}
	m.images[p.CoreDNSImage()] = m.image(empty.Image, (&tree{}).file("coredns", 0o755, coredns), func(c *v1.Config) {
		c.Entrypoint = []string{"/coredns"}
		c.User = "65532:65532"
	})
	host := (&tree{}).file("agnhost", 0o755, agnhost).hardlink("agnhost-2", "agnhost").dir("uploads", 0o755)
	m.images[p.AgnhostImage()] = m.image(box, host, func(c *v1.Config) {
		c.Entrypoint, c.Cmd = []string{"/agnhost"}, []string{"pause"}
	})
	if m.err != nil {
		return m.err
	}
	return write(work, m.images)
}
