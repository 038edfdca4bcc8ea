package images

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Names of the images of BuildDebian.
const (
	Systemd  = "example.com/debian/systemd:12"
	Database = "example.com/debian/database:12"
)

// SystemdSysctl and SystemdSysctlValue are a setting of the kernel that is in no
// namespace, and what a file in the Systemd image sets it to.
const (
	SystemdSysctl      = "vm.stat_interval"
	SystemdSysctlValue = "7"
)

// ownUnit is a service of the Systemd image. It writes down when it is started and stopped,
// in a directory that a test mounts.
const ownUnit = `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "echo started >> /var/lib/own/life"
ExecStop=/bin/sh -c "echo stopped >> /var/lib/own/life"
[Install]
WantedBy=multi-user.target
`

// The source is the key under which the images are kept: what Debian updates meanwhile
// does not count.
//
//go:embed debian.go
var debianSource []byte

// debianTree is an image of Debian's packages.
type debianTree struct {
	packages string
	hooks    []string // shell commands; $1 is the tree
	config   v1.Config
}

func debianTrees() map[string]debianTree {
	path := []string{"PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return map[string]debianTree{
		// A whole system, with nothing in it that knows of containers.
		Systemd: {
			packages: "systemd,systemd-sysv,dbus,udev,kmod,procps,util-linux",
			hooks: []string{
				"echo " + SystemdSysctl + "=" + SystemdSysctlValue + ` > "$1/etc/sysctl.d/90-own.conf"`,
				"echo '" + ownUnit + `' > "$1/etc/systemd/system/own.service"`,
				`mkdir "$1/var/lib/own"; chroot "$1" systemctl enable own.service`,
			},
			config: v1.Config{Cmd: []string{"/sbin/init"}, StopSignal: "SIGRTMIN+3"},
		},
		// Its own database is made at build and not needed.
		Database: {
			packages: "postgresql-15,sqlite3,procps",
			hooks:    []string{`rm -rf "$1"/var/lib/postgresql/15 "$1"/etc/postgresql/15`},
			config:   v1.Config{Cmd: []string{"sh"}, Env: path},
		},
	}
}

// BuildDebian returns images of whole trees of Debian, making them first if the cache does
// not hold them: programs that others wrote, as they are installed. It needs mmdebstrap, and
// the network only when it builds.
func BuildDebian(ctx context.Context, o Options) (*Set, error) {
	sum := sha256.Sum256(debianSource)
	set, err := o.keep("debian-"+hex.EncodeToString(sum[:8]), func(work string) error { return buildDebian(ctx, o, work) })
	if err != nil {
		return nil, fmt.Errorf("build images of Debian: %w", err)
	}
	return set, nil
}

func buildDebian(ctx context.Context, o Options, work string) error {
	m := &maker{images: map[string]mutate.Appendable{}}
	var trees []string
	for name, t := range debianTrees() {
		o.Say("build %s from Debian's packages", name)
		tree := filepath.Join(work, fmt.Sprintf("tree-%d.tar", len(trees)))
		trees = append(trees, tree)
		if err := t.unpack(ctx, work, tree); err != nil {
			return err
		}
		m.images[name] = m.debian(tree, t.config)
	}
	if m.err != nil {
		return m.err
	}
	if err := write(work, m.images); err != nil {
		return err
	}
	for _, tree := range trees {
		if err := os.Remove(tree); err != nil {
			return err
		}
	}
	return nil
}

// unpack makes the tree as a tar file, from the machine's own package sources.
func (t debianTree) unpack(ctx context.Context, work, tree string) error {
	args := []string{"--quiet", "--variant=minbase", "--include=" + t.packages}
	for _, dir := range []string{"doc", "man", "locale", "info"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	for _, h := range t.hooks {
		args = append(args, "--customize-hook="+h)
	}
	args = append(args, "bookworm", tree)
	for _, glob := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/debian*.sources", "/etc/apt/sources.list.d/debian*.list"} {
		found, err := filepath.Glob(glob)
		if err != nil {
			return err
		}
		args = append(args, found...)
	}
	return command(ctx, work, "mmdebstrap", args...)
}

// debian is an image of one layer.
func (m *maker) debian(tree string, config v1.Config) v1.Image {
	open := func() (io.ReadCloser, error) { return os.Open(tree) }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.DockerLayer))
	if err != nil {
		return m.fail(err)
	}
	base, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return m.fail(err)
	}
	return m.configured(base, func(c *v1.Config) { *c = config })
}
