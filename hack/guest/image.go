package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// manifest says what the image is made of. Names of files are relative to it.
type manifest struct {
	Kernels []kernel `json:"kernels"` // the first that is there is the default
	Guest   string   `json:"guest"`   // SHA-256 of cricket-guest
}

// kernel is one kernel with the initial RAM file system that fits it.
type kernel struct {
	Name    string `json:"name"`
	Release string `json:"release"` // uname -r
	Package string `json:"package"` // Debian's, with its version
	Kernel  string `json:"kernel"`
	Initrd  string `json:"initrd"`
	// Cmdline is what this kernel is to be told, whatever machine it boots on.
	Cmdline string `json:"cmdline"`
	// KernelSum and InitrdSum are SHA-256.
	KernelSum string `json:"kernelSum"`
	InitrdSum string `json:"initrdSum"`
}

// commonCmdline is for both kernels. A kernel that panics ends the machine. Containers'
// memory pressure is seen. Huge pages that nobody asked for would be memory that a clone
// does not share with its template, and so would the buffer for devices that cannot reach
// all memory: there are none.
//
// What the kernel does not know goes into process 1's environment. Its goroutines are few
// and short: interrupting them by signals costs more than it gives where each instruction
// is translated first, and so does counting the processors every second.
const commonCmdline = "quiet panic=-1 psi=1 transparent_hugepage=madvise swiotlb=noforce GODEBUG=asyncpreemptoff=1,updatemaxprocs=0"

// debianCmdline leaves out what a general kernel does at boot and a guest has no use for:
// self-tests, certificates for modules, measurement and encrypted keys. Each costs tenths
// of a second under emulation. Without AppArmor it would fall back to SELinux, for which
// nobody has a policy and a whole system in a container would look.
const debianCmdline = " apparmor=0 selinux=0 nowatchdog cryptomgr.notests=1 initcall_blacklist=load_system_certificate_list,jent_mod_init,crypto_kdf108_init,init_encrypted,init_ima"

// smallCmdline: drivers that are built in make no interfaces that nobody asked for.
const smallCmdline = " dummy.numdummies=0"

// Names of kernels.
const (
	debianKernel = "debian"
	smallKernel  = "small"
)

// image builds the initial RAM file systems with Debian's kernel and, if it has been
// built, the small one.
func (b *builder) image(ctx context.Context) error {
	if err := b.lock("image.lock"); err != nil {
		return err
	}
	d, err := b.imagePackage(ctx)
	if err != nil {
		return err
	}
	stock, err := b.unpack(ctx, d)
	if err != nil {
		return err
	}
	guest, err := b.program(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(guest)
	m := manifest{Guest: hex.EncodeToString(sum[:])}
	files, err := moduleFiles(filepath.Join(stock, moduleDir))
	if err != nil {
		return err
	}
	k := kernel{Name: debianKernel, Release: strings.TrimPrefix(d.Package, "linux-image-"), Package: d.Package + " " + d.Version, Kernel: "vmlinux", Initrd: "initrd", Cmdline: commonCmdline + debianCmdline}
	if err := b.install(&k, filepath.Join(stock, "vmlinux"), guest, files); err != nil {
		return err
	}
	m.Kernels = append(m.Kernels, k)
	if built, ok := b.built(); ok {
		k := kernel{Name: smallKernel, Release: built.Release, Package: built.Package, Kernel: "vmlinux-small", Initrd: "initrd-small", Cmdline: commonCmdline + smallCmdline}
		if err := b.install(&k, filepath.Join(b.cache, "vmlinux-small"), guest, nil); err != nil {
			return err
		}
		m.Kernels = append([]kernel{k}, m.Kernels...)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return replace(filepath.Join(b.out, "manifest.json"), append(text, '\n'))
}

// install puts a kernel and its initial RAM file system in place.
func (b *builder) install(k *kernel, vmlinux string, guest []byte, modules []entry) error {
	elf, err := os.ReadFile(vmlinux)
	if err != nil {
		return err
	}
	var initrd bytes.Buffer
	if err := writeCpio(&initrd, files(guest, modules)); err != nil {
		return err
	}
	kernelSum, initrdSum := sha256.Sum256(elf), sha256.Sum256(initrd.Bytes())
	k.KernelSum, k.InitrdSum = hex.EncodeToString(kernelSum[:]), hex.EncodeToString(initrdSum[:])
	if err := replace(filepath.Join(b.out, k.Kernel), elf); err != nil {
		return err
	}
	if err := replace(filepath.Join(b.out, k.Initrd), initrd.Bytes()); err != nil {
		return err
	}
	b.say("%s kernel %s, %.1f MB, initrd %.1f MB", k.Name, k.Release, float64(len(elf))/1e6, float64(initrd.Len())/1e6)
	return nil
}

// files is the content of an initial RAM file system.
func files(guest []byte, modules []entry) []entry {
	var all []entry
	for _, dir := range []string{"dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "tmp"} {
		all = append(all, entry{name: dir, mode: modeDir | 0o755})
	}
	// The kernel opens it before process 1 has mounted anything.
	all = append(all, entry{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1})
	all = append(all, entry{name: "init", mode: modeFile | 0o755, data: guest})
	if len(modules) > 0 {
		all = append(all, entry{name: "sbin/modprobe", mode: modeLink | 0o777, data: []byte("../init")}, entry{name: "lib/modules", mode: modeDir | 0o755})
		all = append(all, modules...)
	}
	return all
}

// program builds cricket-guest.
func (b *builder) program(ctx context.Context) ([]byte, error) {
	to := filepath.Join(b.cache, "cricket-guest")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", to, "./cmd/cricket-guest")
	cmd.Dir, cmd.Stderr = b.root, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build cricket-guest: %w", err)
	}
	return os.ReadFile(to)
}

// once fills a directory of the cache from a package, unless it is there, and names it. What
// was interrupted is not there.
func (b *builder) once(d debian, suffix string, fill func(dir string) error) (string, error) {
	dir := filepath.Join(b.cache, strings.TrimSuffix(filepath.Base(d.path), ".deb")+suffix)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	b.say("unpack %s", filepath.Base(d.path))
	tmp, err := os.MkdirTemp(b.cache, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return "", fmt.Errorf("unpack %s: %w", d.path, err)
	}
	return dir, os.Rename(tmp, dir)
}

// unpack takes kernel and modules out of Debian's package, once, and names the directory.
func (b *builder) unpack(ctx context.Context, d debian) (string, error) {
	return b.once(d, "-"+selection(), func(dir string) error {
		cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", d.path)
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		err = unpackTar(ctx, pipe, dir)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			return err
		}
		return b.removeOldPackages()
	})
}

// removeOldPackages removes what was unpacked of others: nothing of it is needed any more.
func (b *builder) removeOldPackages() error {
	old, err := filepath.Glob(filepath.Join(b.cache, "linux-image-*-????????"))
	for _, o := range old {
		os.RemoveAll(o)
	}
	return err
}

// unpackTar writes the vmlinux to dir and every module that a guest may need below it.
func unpackTar(ctx context.Context, r io.Reader, dir string) error {
	packed := make(map[string][]byte) // modules by name
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch name := strings.TrimPrefix(h.Name, "./"); {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			image, err := io.ReadAll(t)
			if err != nil {
				return err
			}
			elf, err := extract(image)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "vmlinux"), elf, 0o644); err != nil {
				return err
			}
		case strings.HasSuffix(name, ".ko.xz"):
			if packed[moduleName(name)], err = io.ReadAll(t); err != nil {
				return err
			}
		}
	}
	return writeModules(ctx, filepath.Join(dir, moduleDir), packed)
}

// replace writes a file beside, and renames it over what is there, unless that is the same.
func replace(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
