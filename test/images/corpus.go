package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Corpus is Debian in six layers, as a file of instructions would make it: its smallest
// form, and on that what installing perl, python3, gcc, nginx and postgresql changes, one
// after the other.
const Corpus = "example.com/corpus/debian:12"

// corpusPackages are what each layer on the smallest Debian adds.
var corpusPackages = []string{"perl", "python3", "gcc libc6-dev", "nginx-light", "postgresql-15"}

// The source is the key under which the image is kept: what Debian updates meanwhile does
// not count.
//
//go:embed corpus.go
var corpusSource []byte

// BuildCorpus returns a set with Corpus, made first if the cache does not hold it. It needs
// mmdebstrap, and the network only when it builds.
func BuildCorpus(ctx context.Context, o Options) (*Set, error) {
	sum := sha256.Sum256(corpusSource)
	set, err := o.keep("corpus-"+hex.EncodeToString(sum[:8]), func(work string) error { return buildCorpus(ctx, o, work) })
	if err != nil {
		return nil, fmt.Errorf("build a corpus of Debian's packages: %w", err)
	}
	return set, nil
}

func buildCorpus(ctx context.Context, o Options, work string) error {
	// What the layers are made from is not part of the set.
	trees, err := os.MkdirTemp(filepath.Dir(work), "trees-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(trees)
	o.Say("build an image of six layers of Debian's packages")
	tree := func(i int) string { return filepath.Join(trees, fmt.Sprintf("tree-%d.tar", i)) }
	// What apt keeps for itself, and what is mounted, is in no image.
	keep := `tar --create --sort=name --numeric-owner --xattrs --pax-option=delete=atime,delete=ctime --one-file-system --directory="$1" --exclude=./dev/* --exclude=./tmp/*` +
		` --exclude=./var/lib/apt/lists/* --exclude=./var/cache/* --exclude=./var/log/*.log --exclude=./var/log/apt/* --exclude=./etc/resolv.conf --file=`
	const end = " . || [ $? -eq 1 ]" // a mount point changed meanwhile
	d := debianTree{packages: "base-files", hooks: []string{keep + tree(0) + end}}
	for i, packages := range corpusPackages {
		d.hooks = append(d.hooks, `chroot "$1" apt-get -qq install --yes --no-install-recommends `+packages, keep+tree(i+1)+end)
	}
	if err := d.unpack(ctx, work, "/dev/null"); err != nil {
		return err
	}
	layers := []string{tree(0)}
	for i := range corpusPackages {
		change := filepath.Join(trees, fmt.Sprintf("change-%d.tar", i))
		if err := writeChange(tree(i), tree(i+1), change); err != nil {
			return fmt.Errorf("find what %s changes: %w", corpusPackages[i], err)
		}
		layers = append(layers, change)
	}
	m := &maker{images: map[string]mutate.Appendable{}}
	m.images[Corpus] = m.stacked(layers...)
	if m.err != nil {
		return m.err
	}
	return write(work, m.images)
}

// stacked is an image of layers that lie in tar files.
func (m *maker) stacked(files ...string) v1.Image {
	img := mutate.MediaType(empty.Image, types.DockerManifestSchema2)
	for _, file := range files {
		open := func() (io.ReadCloser, error) { return os.Open(file) }
		layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.DockerLayer))
		if err != nil {
			return m.fail(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return m.fail(err)
		}
	}
	return m.configured(img, func(c *v1.Config) {
		c.Cmd = []string{"bash"}
		c.Env = []string{"PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	})
}

// contents are the entries of a tar by their names: a digest of all that is said of each,
// and where hard links lead.
type contents struct {
	sums  map[string][sha256.Size]byte
	links map[string]string
}

func readContents(file string) (c contents, err error) {
	c = contents{map[string][sha256.Size]byte{}, map[string]string{}}
	err = eachEntry(file, func(h *tar.Header, r io.Reader) error {
		sum := sha256.New()
		fmt.Fprintf(sum, "%c %o %d:%d %d.%d %s %d:%d %v\n", h.Typeflag, h.Mode, h.Uid, h.Gid,
			h.ModTime.Unix(), h.ModTime.Nanosecond(), h.Linkname, h.Devmajor, h.Devminor, h.PAXRecords)
		if _, err := io.Copy(sum, r); err != nil {
			return err
		}
		c.sums[h.Name] = [sha256.Size]byte(sum.Sum(nil))
		if h.Typeflag == tar.TypeLink {
			c.links[h.Name] = h.Linkname
		}
		return nil
	})
	return c, err
}

func eachEntry(file string, visit func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(h, r); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// writeChange writes the layer that makes whole of base: what is new or different, and a
// whiteout for what is gone.
func writeChange(base, whole, change string) (err error) {
	before, err := readContents(base)
	if err != nil {
		return err
	}
	after, err := readContents(whole)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for name, sum := range after.sums {
		if before.sums[name] == sum {
			continue
		}
		keep[name] = true
		// A link leads to a file of its own layer, so that goes into it too.
		if target, ok := after.links[name]; ok {
			keep[target] = true
		}
	}
	f, err := os.Create(change)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	err = eachEntry(whole, func(h *tar.Header, r io.Reader) error {
		if !keep[h.Name] {
			return nil
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(w, r)
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range gone(before, after) {
		dir, file := path.Split(strings.TrimSuffix(name, "/"))
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: dir + ".wh." + file, Mode: 0o600}); err != nil {
			return err
		}
	}
	return w.Close()
}

// gone are the names that have no successor, in order. What lies in a directory goes with it.
func gone(before, after contents) []string {
	var names []string
	for name := range before.sums {
		parent := path.Dir(strings.TrimSuffix(name, "/")) + "/"
		_, kept := after.sums[name]
		_, within := after.sums[parent]
		if !kept && (within || parent == "./") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
