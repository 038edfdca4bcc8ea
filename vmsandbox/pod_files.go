package vmsandbox

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/netns"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// podFiles is where the guest keeps what all containers of the pod see. No volume has a
// name that begins with a dot.
const podFiles = agent.DirVolumes + "/.pod"

// shmSize is what every runtime gives a pod's /dev/shm.
const shmSize = 64 << 20

// entropyBytes is more than the kernel's generator holds.
const entropyBytes = 256

// newIdentity is what distinguishes the guest from the others of its template.
func newIdentity(c *sandbox.Config) (agent.Identity, error) {
	hostname := c.Hostname
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return agent.Identity{}, fmt.Errorf("read host name: %w", err)
		}
	}
	entropy := make([]byte, entropyBytes)
	_, _ = rand.Read(entropy) // never fails
	id := sha256.Sum256([]byte(c.ID))
	return agent.Identity{
		Entropy: entropy, Hostname: hostname, MachineID: hex.EncodeToString(id[:16]),
	}, nil
}

// sysctls are the pod's, with the defaults that pods of any hull have.
func sysctls(c *sandbox.Config) map[string]string {
	return netns.AddDefaultSysctls(c.Sysctls, c.UserNS != nil)
}

// ipcSysctls are those that have to be written in the pod's own IPC namespace, which only
// pods with a user namespace have. Each container does, since nobody else is in there.
func ipcSysctls(c *sandbox.Config) map[string]string {
	if c.UserNS == nil {
		return nil
	}
	own := map[string]string{}
	for name, value := range c.Sysctls {
		if netns.CheckSysctls(map[string]string{name: value}, []specs.LinuxNamespaceType{specs.IPCNamespace}) == nil {
			own[name] = value
		}
	}
	return own
}

// putFiles makes what the pod's containers find in /etc.
func (p *pod) putFiles(ctx context.Context) error {
	c := p.config()
	etc, err := sandbox.EtcFiles(c)
	if err != nil {
		return err
	}
	uid, gid := rootOf(c)
	files := []agent.File{{Path: podFiles, Mode: unix.S_IFDIR | 0o755}}
	for name, content := range etc {
		files = append(files, agent.File{
			Path: path.Join(podFiles, name), Mode: unix.S_IFREG | 0o644, UID: uid, GID: gid, Content: []byte(content),
		})
	}
	if err := p.machine.Guest.Put(ctx, files); err != nil {
		return fmt.Errorf("put files into guest: %w", err)
	}
	return nil
}

// mountShared makes the memory that the pod's containers share.
func (p *pod) mountShared(ctx context.Context) error {
	uid, gid := rootOf(p.config())
	id := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	err := p.machine.Guest.Mount(ctx, agent.Mount{
		Source: "shm", Target: path.Join(podFiles, "shm"), Type: "tmpfs", Options: []string{
			"nosuid", "nodev", "noexec", "mode=1777", "size=" + strconv.Itoa(shmSize), "uid=" + id(uid), "gid=" + id(gid),
		},
	})
	if err != nil {
		return fmt.Errorf("mount shared memory: %w", err)
	}
	return nil
}

// rootOf is the pod's root user outside of its user namespace.
func rootOf(c *sandbox.Config) (uid, gid uint32) {
	if c.UserNS == nil {
		return 0, 0
	}
	return outsideRoot(c.UserNS.UIDs), outsideRoot(c.UserNS.GIDs)
}

func outsideRoot(mappings []specs.LinuxIDMapping) uint32 {
	for _, m := range mappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return m.HostID
		}
	}
	return 0
}

// podMounts are what the pod shows in each of its containers.
func podMounts() []specs.Mount {
	bind := func(destination, name string, options ...string) specs.Mount {
		return specs.Mount{
			Destination: destination, Source: path.Join(podFiles, name), Type: "bind",
			Options: append([]string{"rbind", "rprivate", "rw"}, options...),
		}
	}
	return []specs.Mount{
		bind("/etc/hostname", "hostname"),
		bind("/etc/hosts", "hosts"),
		bind("/etc/resolv.conf", "resolv.conf"),
		bind("/dev/shm", "shm", "nosuid", "noexec", "nodev"),
	}
}
