package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// shmSize is what every runtime gives a pod's /dev/shm.
const shmSize = 64 << 20

// fallbackHosts is for a host that has no /etc/hosts.
const fallbackHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

// writeFiles makes the files that the pod's containers find in /etc.
func (p *pod) writeFiles() error {
	files, err := EtcFiles(&p.state.Config)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := p.writeOwned(name, content); err != nil {
			return err
		}
	}
	return nil
}

// EtcFiles are the files that the containers of a pod find in /etc whatever their images
// have there, by name: hostname, hosts, resolv.conf.
func EtcFiles(c *Config) (map[string]string, error) {
	hostname := c.Hostname
	if hostname == "" || c.Network != runtime.NamespacePod {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("read host name: %w", err)
		}
	}
	resolv := resolvConf(c.DNS)
	if resolv == "" {
		resolv = hostFile("/etc/resolv.conf", "")
	}
	return map[string]string{
		resolvFile:   resolv,
		hostsFile:    hostFile("/etc/hosts", fallbackHosts),
		hostnameFile: hostname + "\n",
	}, nil
}

// writeOwned writes a file that belongs to the pod's root user, who may change it.
func (p *pod) writeOwned(name, content string) error {
	path := p.dir(name)
	if err := writeFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	uid, gid := p.state.Config.root()
	if err := os.Chown(path, uid, gid); err != nil {
		return fmt.Errorf("give %s to the pod: %w", name, err)
	}
	return nil
}

func hostFile(path, fallback string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return fallback
	}
	return string(content)
}

// resolvConf writes a resolv.conf(5); nothing if there is nothing to say.
func resolvConf(d *DNS) string {
	if d == nil {
		return ""
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, server := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.String()
}

// mountShm mounts the /dev/shm that the pod's containers share.
func (p *pod) mountShm() error {
	c := &p.state.Config
	if c.IPC != runtime.NamespacePod {
		return nil
	}
	at := p.dir(shmDir)
	if err := os.Mkdir(at, 0o755); err != nil {
		return fmt.Errorf("make shared memory directory: %w", err)
	}
	uid, gid := c.root()
	options := "mode=1777,size=" + strconv.Itoa(shmSize) + ",uid=" + strconv.Itoa(uid) + ",gid=" + strconv.Itoa(gid)
	if c.MountLabel != "" {
		options += `,context="` + c.MountLabel + `"`
	}
	if err := unix.Mount("shm", at, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return errors.Join(fmt.Errorf("mount shared memory: %w", err), os.Remove(at))
	}
	return nil
}

// unmountShm is idempotent.
func (p *pod) unmountShm() error {
	err := unix.Unmount(p.dir(shmDir), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount shared memory: %w", err)
	}
	return nil
}

// mounts are what the pod shows in each of its containers.
func (p *pod) mounts() []specs.Mount {
	shm := p.dir(shmDir)
	if p.state.Config.IPC != runtime.NamespacePod {
		shm = "/dev/shm"
	}
	bind := func(destination, source string, options ...string) specs.Mount {
		return specs.Mount{
			Destination: destination, Source: source, Type: "bind",
			Options: append([]string{"rbind", "rprivate", "rw"}, options...),
		}
	}
	return []specs.Mount{
		bind("/etc/hostname", p.dir(hostnameFile)),
		bind("/etc/hosts", p.dir(hostsFile)),
		bind("/etc/resolv.conf", p.dir(resolvFile)),
		bind("/dev/shm", shm, "nosuid", "noexec", "nodev"),
	}
}
