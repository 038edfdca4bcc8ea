package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Where containerd keeps things below its root (/var/lib/containerd), and how its database
// is laid out: core/metadata/buckets.go of containerd.
const (
	containerdMeta    = "io.containerd.metadata.v1.bolt/meta.db"
	containerdContent = "io.containerd.content.v1.content"
	// KubernetesNamespace is where containerd's CRI keeps the kubelet's images.
	KubernetesNamespace = "k8s.io"

	pinLabel = "io.cri-containerd.pinned"
)

// lockTime is how long containerd may take to let go of its database.
const lockTime = 2 * time.Second

// OpenContainerd opens the root of a containerd that is not running: its images of one
// namespace, with their names and pins. Nothing is changed. While containerd runs the error
// is errdefs.ErrUnavailable.
func OpenContainerd(root, namespace string) (*Archive, error) {
	db, err := bolt.Open(filepath.Join(root, containerdMeta), 0o400, &bolt.Options{ReadOnly: true, Timeout: lockTime})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open containerd's database: %w: containerd is running, stop it first: %w", errdefs.ErrUnavailable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open containerd's database: %w", err)
	}
	defer db.Close() //nolint:errcheck // it was only read
	content, err := os.OpenRoot(filepath.Join(root, containerdContent))
	if err != nil {
		return nil, fmt.Errorf("open containerd's content: %w", err)
	}
	a := &Archive{files: directory{content}}
	if err := db.View(func(tx *bolt.Tx) error { return a.readImages(tx, namespace) }); err != nil {
		return nil, errors.Join(fmt.Errorf("read containerd's database: %w", err), content.Close())
	}
	return a, nil
}

func (a *Archive) readImages(tx *bolt.Tx, namespace string) error {
	images := nested(tx.Bucket([]byte("v1")), namespace, "images")
	if images == nil {
		return fmt.Errorf("%w: there are no images in namespace %q", errdefs.ErrNotFound, namespace)
	}
	return images.ForEachBucket(func(key []byte) error {
		img := images.Bucket(key)
		target, err := readTarget(nested(img, "target"))
		if err != nil {
			return fmt.Errorf("image %q: %w", key, err)
		}
		name := string(key)
		if strings.HasPrefix(name, "sha256:") {
			name = "" // the CRI's way to find an image by its id
		}
		a.offer(target, name)
		if labels := nested(img, "labels"); labels != nil && string(labels.Get([]byte(pinLabel))) == "pinned" {
			for i := range a.images {
				if a.images[i].Target.Digest == target.Digest {
					a.images[i].Pinned = true
				}
			}
		}
		return nil
	})
}

func nested(b *bolt.Bucket, names ...string) *bolt.Bucket {
	for _, n := range names {
		if b == nil {
			return nil
		}
		b = b.Bucket([]byte(n))
	}
	return b
}

func readTarget(b *bolt.Bucket) (ocispec.Descriptor, error) {
	if b == nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: no target", errdefs.ErrDataLoss)
	}
	d := ocispec.Descriptor{
		MediaType: string(b.Get([]byte("mediatype"))),
		Digest:    digest.Digest(b.Get([]byte("digest"))),
	}
	if err := d.Digest.Validate(); err != nil {
		return d, fmt.Errorf("%w: %w", errdefs.ErrDataLoss, err)
	}
	size, n := binary.Varint(b.Get([]byte("size")))
	if n <= 0 {
		return d, fmt.Errorf("%w: size of the target", errdefs.ErrDataLoss)
	}
	d.Size = size
	return d, nil
}
