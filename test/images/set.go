package images

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// The sources of everything that an image is made of: their hash is the key under
// which a result is kept.
//
//go:embed busybox.go catalog.go rootfs.go set.go program/*.go
var sources embed.FS

// refName is the annotation of an OCI image layout that holds an image's name.
const refName = "org.opencontainers.image.ref.name"

// Options say where Build works.
type Options struct {
	Cache string               // directory that keeps results between calls
	Say   func(string, ...any) // told of every long step; never nil
}

// Set is a set of named images kept as an OCI image layout.
type Set struct {
	path layout.Path
	refs map[string]v1.Descriptor // full name with tag
}

// Build returns the images, making them first if the cache does not hold them. It
// needs a Go tool chain, a C compiler, make and dpkg-dev, and the network only when it
// builds.
func Build(ctx context.Context, o Options) (*Set, error) {
	key, err := hashSources("*.go", "program/*.go") // all that is embedded
	if err != nil {
		return nil, err
	}
	// Tools are started in other directories.
	if o.Cache, err = filepath.Abs(o.Cache); err != nil {
		return nil, fmt.Errorf("build test images: %w", err)
	}
	dir := filepath.Join(o.Cache, "images", key)
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		if err := build(ctx, o, dir); err != nil {
			return nil, fmt.Errorf("build test images: %w", err)
		}
	}
	return Open(dir)
}

// Open reads a set that Build made.
func Open(dir string) (*Set, error) {
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("open test images: %w", err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("read image layout: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("read image layout: %w", err)
	}
	s := &Set{path: path, refs: map[string]v1.Descriptor{}}
	for _, d := range manifest.Manifests {
		s.refs[d.Annotations[refName]] = d
	}
	return s, nil
}

// Digest is the digest of the manifest or index called name, which has a tag.
func (s *Set) Digest(name string) (v1.Hash, error) {
	d, ok := s.refs[name]
	if !ok {
		return v1.Hash{}, fmt.Errorf("no test image %q", name)
	}
	return d.Digest, nil
}

// Image is the single-platform image called name, to derive others from.
func (s *Set) Image(name string) (v1.Image, error) {
	digest, err := s.Digest(name)
	if err != nil {
		return nil, err
	}
	return s.path.Image(digest)
}

// Names lists the images.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.refs))
	for n := range s.refs {
		names = append(names, n)
	}
	return names
}

func build(ctx context.Context, o Options, dir string) error {
	key, err := hashSources("busybox.go")
	if err != nil {
		return err
	}
	box, err := buildBusybox(ctx, filepath.Join(o.Cache, "busybox", key), o.Say)
	if err != nil {
		return err
	}
	o.Say("build the test images")
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	program, err := buildProgram(ctx, filepath.Join(tmp, "program"))
	if err != nil {
		return err
	}
	images, err := catalog(box, program)
	if err != nil {
		return err
	}
	if err := write(tmp, images); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func write(dir string, images map[string]mutate.Appendable) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for name, img := range images {
		annotate := layout.WithAnnotations(map[string]string{refName: name})
		switch img := img.(type) {
		case v1.ImageIndex:
			err = path.ReplaceIndex(img, match.Name(name), annotate)
		case v1.Image:
			err = path.ReplaceImage(img, match.Name(name), annotate)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// programPackage is found from any directory of this module.
const programPackage = "github.com/cricket-cri/cricket/test/images/program"

func buildProgram(ctx context.Context, out string) ([]byte, error) {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, programPackage)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the images' program: %w\n%s", err, msg)
	}
	return os.ReadFile(out)
}

// hashSources is a key over the named source files and the tool chain.
func hashSources(patterns ...string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	for _, p := range patterns {
		files, err := fs.Glob(sources, p)
		if err != nil {
			return "", err
		}
		for _, f := range files {
			data, err := sources.ReadFile(f)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %d\n", f, len(data))
			h.Write(data)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func emptyIndex() v1.ImageIndex { return empty.Index }

func appendImage(dir, name string, img v1.Image) error {
	return layout.Path(dir).ReplaceImage(img, match.Name(name), layout.WithAnnotations(map[string]string{refName: name}))
}

// Dir is where the set is kept; Open reads it.
func (s *Set) Dir() string { return string(s.path) }
