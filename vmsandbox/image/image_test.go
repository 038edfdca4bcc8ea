package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestFind(t *testing.T) {
	dir, empty := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"manifest.json": `{"kernels":[{"name":"debian","release":"6.12","kernel":"vmlinux","initrd":"initrd","cmdline":"quiet"},
			{"name":"small","kernel":"vmlinux-small","initrd":"initrd-small"}, {"name":"lost","kernel":"nowhere","initrd":"initrd"}]}`,
		"vmlinux": "", "initrd": "", "vmlinux-small": "", "initrd-small": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, test := range map[string]struct {
		in   Wanted
		want Found
		err  string
	}{
		"preferred": {in: Wanted{Dir: dir}, want: Found{Kernel: at("vmlinux-small"), Initrd: at("initrd-small"), Name: "small"}},
		"by name": {
			in:   Wanted{Dir: dir, Kernel: "debian", Cmdline: "mitigations=off"},
			want: Found{Kernel: at("vmlinux"), Initrd: at("initrd"), Name: "debian", Release: "6.12", Cmdline: "quiet mitigations=off"},
		},
		"by path": {
			in:   Wanted{Dir: empty, Kernel: at("vmlinux"), Initrd: at("initrd"), Cmdline: "x"},
			want: Found{Kernel: at("vmlinux"), Initrd: at("initrd"), Cmdline: "x"},
		},
		"no such kernel": {in: Wanted{Dir: dir, Kernel: "other"}, err: `find kernel "other"`},
		"kernel is gone": {in: Wanted{Dir: dir, Kernel: "lost"}, err: "nowhere"},
		"no image":       {in: Wanted{Dir: empty}, err: "make guest"},
		"no QEMU":        {in: Wanted{Dir: dir, QEMU: "/nowhere/qemu"}, err: "apt-get install qemu-system-x86"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.in.QEMU == "" {
				test.in.QEMU = "/bin/sh"
			}
			got, err := Find(test.in)
			if test.err != "" {
				if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error = %v", err)
				}
				return
			}
			test.want.QEMU = "/bin/sh"
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}
