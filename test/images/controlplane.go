package images

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// ControlPlane is what kubeadm runs as pods: paths of static programs, and the tags under
// which it asks for their images.
type ControlPlane struct {
	// Programs are kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy,
	// etcd and coredns, by these names.
	Programs map[string]string
	// Version is that of Kubernetes, EtcdTag and CoreDNSTag are kubeadm's defaults.
	Version, EtcdTag, CoreDNSTag string
}

// names are the images by the programs that they are made around.
func (p ControlPlane) names() map[string]string {
	names := map[string]string{
		"etcd":    "registry.k8s.io/etcd:" + p.EtcdTag,
		"coredns": "registry.k8s.io/coredns/coredns:" + p.CoreDNSTag,
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		names[name] = "registry.k8s.io/" + name + ":" + p.Version
	}
	return names
}

//go:embed controlplane.go
var controlPlaneSource []byte

// BuildControlPlane returns the images of a control plane, making them first if the cache
// does not hold them. It needs mmdebstrap, and the network only when it builds: kube-proxy
// calls Debian's iptables.
func BuildControlPlane(ctx context.Context, o Options, p ControlPlane) (*Set, error) {
	// The programs' paths hold the hash of what they were built from.
	sum := sha256.Sum256(fmt.Appendf(controlPlaneSource, "%+v", p))
	set, err := o.keep("control-plane-"+hex.EncodeToString(sum[:8]), func(work string) error {
		o.Say("build the images of a control plane")
		return p.build(ctx, work)
	})
	if err != nil {
		return nil, fmt.Errorf("build images of a control plane: %w", err)
	}
	return set, nil
}

func (p ControlPlane) build(ctx context.Context, work string) error {
	debian := filepath.Join(work, "debian.tar")
	if err := (debianTree{packages: "iptables,nftables,conntrack,kmod"}).unpack(ctx, work, debian); err != nil {
		return err
	}
	m := &maker{images: map[string]mutate.Appendable{}}
	for program, name := range p.names() {
		base := empty.Image
		if program == "kube-proxy" {
			base = m.debian(debian, v1.Config{})
		}
		data, err := os.ReadFile(p.Programs[program])
		if err != nil {
			return err
		}
		file := "usr/local/bin/" + program
		t := (&tree{}).dir("usr/local", 0o755).dir("usr/local/bin", 0o755).file(file, 0o755, data)
		m.images[name] = m.image(base, t, func(c *v1.Config) {
			c.Entrypoint = []string{"/" + file}
			c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		})
	}
	if m.err != nil {
		return m.err
	}
	if err := write(work, m.images); err != nil {
		return err
	}
	return os.Remove(debian)
}
