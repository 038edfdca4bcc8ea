// Package image finds what virtual machines boot on this node: QEMU, and a guest's kernel
// and initramfs as `make guest` makes them.
package image

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Wanted says where to look; what is empty is looked for in the usual places.
type Wanted struct {
	// QEMU is a path or the name of a program.
	QEMU string
	// Dir is the directory of the guest image, Kernel the name of one of its kernels or,
	// with Initrd, the path of another.
	Dir, Kernel, Initrd string
	// Cmdline is added to what the kernel needs.
	Cmdline string
}

// Found is what machines are made of.
type Found struct {
	QEMU, Kernel, Initrd, Cmdline string
	// Name and Release are the kernel's; unknown of one that was given by its path.
	Name, Release string
}

// Preferred is the kernel that boots fastest, where it has been built.
const Preferred = "small"

// manifest is what `make guest` says of an image.
type manifest struct {
	Kernels []struct {
		Name    string `json:"name"`
		Release string `json:"release"`
		Kernel  string `json:"kernel"`
		Initrd  string `json:"initrd"`
		Cmdline string `json:"cmdline"`
	} `json:"kernels"`
}

// Find looks for everything. errdefs.ErrNotFound says what is missing.
func Find(w Wanted) (f Found, err error) {
	if f.QEMU, err = exec.LookPath(w.QEMU); err != nil {
		return f, fmt.Errorf("find QEMU: %w: %w; apt-get install qemu-system-x86", errdefs.ErrNotFound, err)
	}
	if filepath.IsAbs(w.Kernel) {
		f.Kernel, f.Initrd, f.Cmdline = w.Kernel, w.Initrd, w.Cmdline
	} else if err := f.choose(w); err != nil {
		return f, err
	}
	for _, file := range []string{f.Kernel, f.Initrd} {
		if _, err := os.Stat(file); err != nil {
			return f, fmt.Errorf("find guest image: %w: %w", errdefs.ErrNotFound, err)
		}
	}
	return f, nil
}

func (f *Found) choose(w Wanted) error {
	dir, m, err := open(w.Dir)
	if err != nil {
		return err
	}
	at := 0
	for i, k := range m.Kernels {
		if w.Kernel == k.Name || w.Kernel == "" && k.Name == Preferred {
			at = i
		}
	}
	if len(m.Kernels) == 0 || w.Kernel != "" && m.Kernels[at].Name != w.Kernel {
		return fmt.Errorf("find kernel %q in %s: %w", w.Kernel, dir, errdefs.ErrNotFound)
	}
	k := m.Kernels[at]
	f.Name, f.Release = k.Name, k.Release
	f.Kernel, f.Initrd = filepath.Join(dir, k.Kernel), filepath.Join(dir, k.Initrd)
	f.Cmdline = strings.TrimSpace(k.Cmdline + " " + w.Cmdline)
	return nil
}

// open reads the manifest of the first directory that has one.
func open(dir string) (string, manifest, error) {
	dirs := []string{dir}
	if dir == "" {
		dirs = []string{"/usr/lib/cricket/guest"}
		if self, err := os.Executable(); err == nil {
			dirs = []string{filepath.Join(filepath.Dir(self), "guest"), dirs[0]}
		}
	}
	var m manifest
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
		if err != nil {
			continue
		}
		if err := json.Unmarshal(text, &m); err != nil {
			return "", m, fmt.Errorf("read %s: %w: %w", filepath.Join(dir, "manifest.json"), errdefs.ErrInvalidArgument, err)
		}
		return dir, m, nil
	}
	return "", m, fmt.Errorf("find guest image in %s: %w; `make guest` makes one", strings.Join(dirs, ", "), errdefs.ErrNotFound)
}
