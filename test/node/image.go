package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages are what the node has beyond Debian's minimal system.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-image-6.12-amd64", "initramfs-tools", "zstd",
	"iproute2", "iptables", "nftables", "crun", "containernetworking-plugins", "apparmor", "erofs-utils",
	"procps", "util-linux", "ca-certificates", "libseccomp2", "jq", "sudo",
}

//go:embed guest
var guest embed.FS

//go:embed image.go
var sources embed.FS

// prepare builds the node's disk, unless the cache has it, and the disk with the
// binaries, always.
func (l *lab) prepare(ctx context.Context) error {
	key, err := imageKey()
	if err != nil {
		return err
	}
	dir := filepath.Join(l.cache, "image-"+key)
	l.kernel, l.initrd, l.disk = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd"), filepath.Join(dir, "disk.img")
	if _, err := os.Stat(filepath.Join(dir, "done")); err != nil {
		fmt.Println("building the node from Debian packages (about two minutes)")
		if err := l.buildImage(ctx, dir); err != nil {
			return err
		}
	}
	return l.buildPayload(ctx)
}

// imageKey changes whenever what goes into the node's disk does.
func imageKey() (string, error) {
	h := sha256.New()
	unit, err := guest.ReadFile("guest/node-task.service")
	if err != nil {
		return "", err
	}
	h.Write(unit)
	source, err := sources.ReadFile("image.go")
	if err != nil {
		return "", err
	}
	h.Write(source)
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

func (l *lab) buildImage(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tar, root := filepath.Join(dir, "root.tar"), filepath.Join(dir, "root")
	sources, err := aptSources()
	if err != nil {
		return err
	}
	args := append([]string{"--quiet", "--variant=minbase", "--include=" + strings.Join(packages, ","), "bookworm", tar}, sources...)
	if err := command(ctx, "mmdebstrap", args...); err != nil {
		return err
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := command(ctx, "tar", "-xf", tar, "-C", root); err != nil {
		return err
	}
	if err := customize(root); err != nil {
		return err
	}
	for glob, to := range map[string]string{"vmlinuz-*": l.kernel, "initrd.img-*": l.initrd} {
		found, _ := filepath.Glob(filepath.Join(root, "boot", glob))
		if len(found) != 1 {
			return fmt.Errorf("want one boot/%s in the node, have %d", glob, len(found))
		}
		if err := os.Rename(found[0], to); err != nil {
			return err
		}
	}
	if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, l.disk, "10G"); err != nil {
		return err
	}
	os.Remove(tar)
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "done"), nil, 0o644)
}

// aptSources are this machine's own package sources: whatever mirror it uses serves
// the node too.
func aptSources() ([]string, error) {
	var all []string
	for _, glob := range []string{"/etc/apt/sources.list", "/etc/apt/sources.list.d/debian*.sources", "/etc/apt/sources.list.d/debian*.list"} {
		found, err := filepath.Glob(glob)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no package sources for Debian in /etc/apt")
	}
	return all, nil
}

// customize makes the unpacked root a node that runs its task and powers off.
func customize(root string) error {
	unit, err := guest.ReadFile("guest/node-task.service")
	if err != nil {
		return err
	}
	files := map[string]string{
		"etc/systemd/system/node-task.service": string(unit),
		"etc/fstab":                            "/dev/vda / ext4 defaults 0 1\n/dev/vdb /payload ext4 ro 0 0\n",
		"etc/hostname":                         "cricket-node\n",
		// Without it sudo complains, and critest takes any complaint for a failure.
		"etc/hosts": "127.0.0.1 localhost\n127.0.1.1 cricket-node\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "payload"), 0o755); err != nil {
		return err
	}
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	return os.Symlink("../node-task.service", filepath.Join(wants, "node-task.service"))
}

// command runs a program and shows what it says only if it fails.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
