package diff

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The images of the cases: busybox with the probe, and some with more in their
// configuration.
const (
	imagePlain   = "diff.test/probe:plain"
	imageSettled = "diff.test/probe:settled"
	imageNamed   = "diff.test/probe:named"
	imageGroups  = "diff.test/probe:groups"
	imageUnknown = "diff.test/probe:unknown-user"
	imageCommand = "diff.test/probe:command"
	imageNothing = "diff.test/probe:nothing"
)

var configurations = map[string]func(*v1.Config){
	imagePlain: func(c *v1.Config) { c.Cmd = []string{"/probe"} },
	imageSettled: func(c *v1.Config) {
		c.User = "1003:1004"
		c.Env = []string{"PATH=/bin:/own", "FROM_IMAGE=image", "REPLACED=image", "EMPTY=", "WITH-DASH=1", "HOSTNAME=image", "NO_VALUE"}
		c.WorkingDir = "/work/dir"
		c.StopSignal = "SIGUSR1"
		c.Volumes = map[string]struct{}{"/data": {}}
		c.Labels = map[string]string{"label": "image"}
		c.Entrypoint, c.Cmd = []string{"/probe"}, nil
	},
	imageNamed:   func(c *v1.Config) { c.User, c.Cmd = "www-data", []string{"/probe"} },
	imageGroups:  func(c *v1.Config) { c.User, c.Cmd = "member", []string{"/probe"} },
	imageUnknown: func(c *v1.Config) { c.User, c.Cmd = "nobody-knows", []string{"/probe"} },
	imageCommand: func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"echo", "entry point"}, []string{"from", "image"} },
	imageNothing: func(c *v1.Config) { c.Entrypoint, c.Cmd = nil, nil },
}

func imageNames() []string { return slices.Sorted(maps.Keys(configurations)) }

// addImages makes the images and has the registry serve them.
func addImages(r *images.Registry, set *images.Set) error {
	base, err := set.Image(images.Busybox)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(filepath.Join(os.Getenv(binEnv), "probe"))
	if err != nil {
		return err
	}
	layer, err := layerOf(map[string]string{
		"probe":          string(program),
		"own/script":     "#!/bin/sh\necho script $0\n",
		"own/no-program": "text",
		"data/file":      "of the image\n",
		"etc/hostname":   "image\n",
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nmember:x:1000:1000::/home/member:/bin/sh\n",
		"etc/group":      "root:x:0:\nwww-data:x:33:\nmember:x:1000:\nextra:x:50000:member\nmore:x:50001:member,www-data\n",
	})
	if err != nil {
		return err
	}
	if base, err = mutate.AppendLayers(base, layer); err != nil {
		return err
	}
	for _, name := range imageNames() {
		file, err := base.ConfigFile()
		if err != nil {
			return err
		}
		file = file.DeepCopy()
		configurations[name](&file.Config)
		image, err := mutate.ConfigFile(base, file)
		if err != nil {
			return err
		}
		if err := r.Add(filepath.Join(harness.Dir(), "images"), name, image); err != nil {
			return err
		}
	}
	return nil
}

// layerOf is a layer of programs and texts, which all may execute.
func layerOf(files map[string]string) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o755)
		if strings.HasPrefix(name, "etc/") || strings.HasSuffix(name, "no-program") {
			mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(files[name]))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}
