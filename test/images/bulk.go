package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Bulk is an image for measuring pulls: some hundred MiB of programs, libraries and sources,
// many small files among them, in six layers.
const Bulk = "registry.k8s.io/cribench/bulk:1"

//go:embed bulk.go
var bulkSource []byte

// part is a layer of Bulk: files below dir that keep takes by their path.
type part struct {
	dir  string
	keep func(rel string) bool
}

// bulkParts are what every machine has that builds Go programs with C in them.
func bulkParts(goroot string) []part {
	all := func(string) bool { return true }
	command := func(rel string) bool { return strings.HasPrefix(rel, "cmd/") }
	library := func(rel string) bool {
		ext := filepath.Ext(rel)
		return ext == ".a" || ext == ".so"
	}
	return []part{
		{filepath.Join(goroot, "bin"), all},
		{filepath.Join(goroot, "pkg"), all},
		{filepath.Join(goroot, "src"), command},
		{filepath.Join(goroot, "src"), func(rel string) bool { return !command(rel) }},
		{"/usr/lib/gcc", library},
		{"/usr/lib/gcc", func(rel string) bool { return !library(rel) }},
	}
}

// BuildBulk returns a set that holds Bulk, built if the cache does not have it.
func BuildBulk(ctx context.Context, o Options) (*Set, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("build an image for pulls: find Go: %w", err)
	}
	goroot := strings.TrimSpace(string(out))
	sum := sha256.Sum256(append([]byte(runtime.Version()+goroot), bulkSource...))
	set, err := o.keep("bulk-"+hex.EncodeToString(sum[:8]), func(work string) error {
		o.Say("build an image of a hundred MiB to pull")
		return buildBulk(work, bulkParts(goroot))
	})
	if err != nil {
		return nil, fmt.Errorf("build an image for pulls: %w", err)
	}
	return set, nil
}

func buildBulk(work string, parts []part) error {
	img := mutate.MediaType(empty.Image, types.DockerManifestSchema2)
	for i, p := range parts {
		path := filepath.Join(work, fmt.Sprintf("part-%d.tar", i))
		if err := p.write(path); err != nil {
			return fmt.Errorf("collect %s: %w", p.dir, err)
		}
		open := func() (io.ReadCloser, error) { return os.Open(path) }
		layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.DockerLayer), tarball.WithCompressedCaching)
		if err != nil {
			return err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return err
		}
	}
	m := &maker{images: map[string]mutate.Appendable{}}
	m.images[Bulk] = m.configured(img, func(c *v1.Config) { c.Cmd = []string{"/bin/gofmt"} })
	if m.err != nil {
		return m.err
	}
	if err := write(work, m.images); err != nil {
		return err
	}
	for i := range parts {
		if err := os.Remove(filepath.Join(work, fmt.Sprintf("part-%d.tar", i))); err != nil {
			return err
		}
	}
	return nil
}

// write writes the part as a tar file. Times are the epoch and owners root: the same files
// make the same bytes.
func (p part) write(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(p.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(p.dir, name)
		if err != nil || d.IsDir() || !p.keep(rel) {
			return err
		}
		return addFile(w, name, strings.TrimPrefix(name, "/"))
	})
	for _, end := range []func() error{w.Close, f.Close} {
		if e := end(); err == nil {
			err = e
		}
	}
	return err
}

// addFile adds a regular file or a symbolic link.
func addFile(w *tar.Writer, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	} else if !info.Mode().IsRegular() {
		return nil
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.ModTime, h.Format = name, time.Unix(0, 0), tar.FormatPAX
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if err := w.WriteHeader(h); err != nil || target != "" {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
