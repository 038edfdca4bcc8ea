package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/images"
)

// The runtimes that a cluster can have.
const (
	Cricket    = "cricket"
	Containerd = "containerd"
)

// builtEnv tells the part inside the private node what Prepare built outside, as JSON.
const builtEnv = "CRICKET_CLUSTER_BUILT"

// built is what a cluster is made of.
type built struct {
	Runtime  string
	Cricketd string
	PeerBin  string // the directory of containerd and its shim
	Runc     string
	Programs map[string]string // paths by name
	Images   []string          // directories of image sets
	First    []string          // directories of sets that come before those
	CoreDNS  string            // the name server's image
}

// Sources say what Prepare works with.
type Sources struct {
	Runtime  string // Cricket or Containerd
	Cricketd string // the daemon's binary
	Cache    string // directory that keeps what was built
	Say      func(string, ...any)
	// Images are sets that the registry has besides. Theirs come before the cluster's own.
	Images []*images.Set
}

// Prepare builds what a cluster needs, with the machine's own network, and returns the
// variables that Start reads. Without a cache it takes twenty minutes on two processors.
func Prepare(ctx context.Context, s Sources) (map[string]string, error) {
	b := tools.Builder{Cache: s.Cache, Say: s.Say}
	made := built{Runtime: s.Runtime, Programs: map[string]string{}}
	var err error
	switch s.Runtime {
	case Cricket:
		made.Cricketd, err = filepath.Abs(s.Cricketd)
	case Containerd:
		made.PeerBin, made.Runc, err = b.Peer(ctx)
	default:
		err = fmt.Errorf("no runtime is called %q: %s or %s", s.Runtime, Cricket, Containerd)
	}
	if err != nil {
		return nil, err
	}
	for _, t := range tools.Cluster() {
		if made.Programs[t.Name], err = b.Build(ctx, t); err != nil {
			return nil, err
		}
	}
	if err := made.images(ctx, s); err != nil {
		return nil, err
	}
	data, err := json.Marshal(made)
	return map[string]string{builtEnv: string(data)}, err
}

func (b *built) images(ctx context.Context, s Sources) error {
	o := images.Options{Cache: s.Cache, Say: s.Say}
	base, err := images.Build(ctx, o)
	if err != nil {
		return err
	}
	p := images.Programs{
		CoreDNS: b.Programs["coredns"], CoreDNSVersion: tools.CoreDNSVersion,
		Agnhost: b.Programs["agnhost"], AgnhostVersion: tools.AgnhostVersion,
	}
	set, err := images.BuildCluster(ctx, o, base, p)
	if err != nil {
		return err
	}
	b.Images, b.CoreDNS = []string{base.Dir(), set.Dir()}, p.CoreDNSImage()
	for _, more := range s.Images {
		b.First = append(b.First, more.Dir())
	}
	return nil
}

// prepared reads what Prepare built.
func prepared() (b built, err error) {
	text := os.Getenv(builtEnv)
	if text == "" {
		return b, errors.New("nothing was prepared for a cluster")
	}
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return b, fmt.Errorf("read what was prepared: %w", err)
	}
	return b, nil
}
