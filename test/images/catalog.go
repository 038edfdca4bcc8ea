package images

import (
	"fmt"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Names of images that tests refer to by more than their own string.
const (
	Busybox     = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
	Nginx       = "registry.k8s.io/e2e-test-images/nginx:1.14-2"
	Pause       = "registry.k8s.io/pause:3.10.2"
	DigestImage = "gcr.io/k8s-staging-cri-tools/test-image-digest:latest"
)

const (
	e2e     = "registry.k8s.io/e2e-test-images/"
	staging = "gcr.io/k8s-staging-cri-tools/"
)

// pauseVersions are the tags of registry.k8s.io/pause. Each has a digest of its own: a
// spec counts the tags of one, and removes it by id.
var pauseVersions = []string{"3.9", "3.10", "3.10.1", "3.10.2"}

// userImages are images that differ from busybox in the user they run as.
var userImages = map[string]string{
	"test-image-user-uid":            "1002",
	"test-image-user-username":       "www-data",
	"test-image-user-uid-group":      "1003:1004",
	"test-image-user-username-group": "www-data:1004",
}

// fileImages are images that differ from busybox in one empty file of that name.
var fileImages = map[string]string{
	staging + "test-image-1:latest": "test-image-1",
	staging + "test-image-2:latest": "test-image-2",
	staging + "test-image-3:latest": "test-image-3",
	DigestImage:                     "test-image-digest",
	staging + "test-image-tags:1":   "same-image",
	staging + "test-image-tags:2":   "same-image",
	staging + "test-image-tags:3":   "same-image",
	staging + "test-image-tag:test": "test",
	staging + "test-image-tag:all":  "all",
	// The image listing benchmark pulls these.
	"public.ecr.aws/docker/library/busybox:1.35.0-glibc": "1.35.0-glibc",
	"public.ecr.aws/docker/library/busybox:1-uclibc":     "1-uclibc",
	"public.ecr.aws/docker/library/busybox:1":            "1",
	"public.ecr.aws/docker/library/busybox:1-glibc":      "1-glibc",
	"public.ecr.aws/docker/library/busybox:1-musl":       "1-musl",
}

// catalog makes every image. The keys of the result are full names with a tag.
func catalog(b busybox, program []byte) (map[string]mutate.Appendable, error) {
	m := &maker{images: map[string]mutate.Appendable{}}
	base := m.image(empty.Image, busyboxTree(b, program), func(c *v1.Config) {
		c.Cmd = []string{"sh"}
		c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	})
	m.images[Busybox] = base
	m.servers(base, program)
	m.users(base)
	for name, file := range fileImages {
		m.images[name] = m.image(base, (&tree{}).file(file, 0o644, nil), nil)
	}
	m.images[staging+"test-image-latest:latest"] = m.index(base, "test-image-latest")
	for _, v := range pauseVersions {
		t := (&tree{}).file("pause", 0o755, program)
		m.images["registry.k8s.io/pause:"+v] = m.image(empty.Image, t, func(c *v1.Config) {
			c.Entrypoint = []string{"/pause"}
			c.User = "65535:65535"
			c.Labels = map[string]string{"version": v}
		})
	}
	// The old name of the registry, under which specs pull one image a second time.
	m.images["k8s.gcr.io/pause:3.9"] = m.images["registry.k8s.io/pause:3.9"]
	return m.images, m.err
}

// maker keeps the first error, so that the catalogue reads as a list.
type maker struct {
	images map[string]mutate.Appendable
	err    error
}

func (m *maker) image(base v1.Image, t *tree, change func(*v1.Config)) v1.Image {
	layer, err := t.layer(types.DockerLayer)
	if err != nil {
		return m.fail(err)
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return m.fail(err)
	}
	return m.configured(img, change)
}

// configured is img with a configuration that says what it is for.
func (m *maker) configured(img v1.Image, change func(*v1.Config)) v1.Image {
	cf, err := img.ConfigFile()
	if err != nil {
		return m.fail(err)
	}
	cf = cf.DeepCopy()
	cf.Architecture, cf.OS = runtime.GOARCH, "linux"
	if change != nil {
		change(&cf.Config)
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return m.fail(err)
	}
	return img
}

func (m *maker) fail(err error) v1.Image {
	if m.err == nil {
		m.err = fmt.Errorf("make image: %w", err)
	}
	return empty.Image
}

func (m *maker) servers(base v1.Image, program []byte) {
	serve := func(entrypoint, port string) func(*v1.Config) {
		return func(c *v1.Config) {
			c.Entrypoint, c.Cmd = []string{entrypoint}, nil
			c.ExposedPorts = map[string]struct{}{port: {}}
		}
	}
	nginx := (&tree{}).file("usr/sbin/nginx", 0o755, program).dir("etc/nginx", 0o755)
	m.images[Nginx] = m.image(base, nginx, serve("/usr/sbin/nginx", "80/tcp"))
	host := (&tree{}).file("usr/sbin/nginx", 0o755, program).dir("etc/nginx", 0o755).file("etc/nginx/port", 0o644, []byte("12003\n"))
	m.images[staging+"hostnet-nginx-"+runtime.GOARCH+":latest"] = m.image(base, host, serve("/usr/sbin/nginx", "12003/tcp"))
	httpd := (&tree{}).dir("usr/local", 0o755).dir("usr/local/bin", 0o755).file("usr/local/bin/httpd", 0o755, program)
	m.images[e2e+"httpd:2.4.39-4"] = m.image(base, httpd, serve("/usr/local/bin/httpd", "80/tcp"))
	setuid := (&tree{}).file("nnp", 0o4755, program)
	m.images[e2e+"nonewprivs:1.3"] = m.image(base, setuid, func(c *v1.Config) {
		c.Entrypoint, c.Cmd = []string{"/nnp"}, nil
	})
}

func (m *maker) users(base v1.Image) {
	for name, user := range userImages {
		m.images[staging+name+":latest"] = m.image(base, &tree{}, func(c *v1.Config) { c.User = user })
	}
	predefined := (&tree{}).
		file("etc/passwd", 0o644, []byte(passwd+"default-user:x:1000:1000:Linux User,,,:/home/default-user:/bin/sh\n")).
		file("etc/group", 0o644, []byte(group+"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")).
		dir("home/default-user", 0o755)
	m.images[staging+"test-image-predefined-group:latest"] = m.image(base, predefined, func(c *v1.Config) { c.User = "1000" })
}

// index is an image index: this machine's architecture and one that it is not.
func (m *maker) index(base v1.Image, file string) mutate.Appendable {
	var idx v1.ImageIndex = empty.Index
	idx = mutate.IndexMediaType(idx, types.DockerManifestList)
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	for _, arch := range []string{other, runtime.GOARCH} {
		img := m.image(base, (&tree{}).file(file, 0o644, []byte(arch)), nil)
		cf, err := img.ConfigFile()
		if err != nil {
			return m.fail(err)
		}
		cf = cf.DeepCopy()
		cf.Architecture = arch
		if img, err = mutate.ConfigFile(img, cf); err != nil {
			return m.fail(err)
		}
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return idx
}
