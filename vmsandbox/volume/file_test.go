package volume

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

func TestHostsIsFollowedAndCopiedBack(t *testing.T) {
	p := newPod(t)
	hosts := p.dir + "/etc-hosts"
	p.write(hosts, "127.0.0.1 localhost\n")
	a := p.add("a", runtime.Mount{Source: hosts, Destination: "/etc/hosts"})
	b := p.add("b", runtime.Mount{Source: hosts, Destination: "/etc/hosts", Readonly: true})
	if a.Source != b.Source || p.read(a.Source) != "127.0.0.1 localhost\n" {
		t.Fatalf("%s and %s, %q", a.Source, b.Source, p.read(a.Source))
	}
	mounted, err := os.Open(p.guest.path(a.Source))
	if err != nil {
		t.Fatal(err)
	}
	defer mounted.Close()
	p.write(hosts, "127.0.0.1 localhost\n10.0.0.1 me\n")
	eventually(t, "rewritten file", func() bool { return strings.Contains(p.read(a.Source), "10.0.0.1 me") })
	if got, err := io.ReadAll(mounted); err != nil || !strings.Contains(string(got), "10.0.0.1 me") {
		t.Errorf("the guest's file was replaced, what is mounted in the container is the old one: %q, %v", got, err)
	}

	p.write(p.guest.path(a.Source), "by the container")
	if err := p.set.Flush(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(hosts); string(got) != "by the container" {
		t.Errorf("after the container's end the host has %q", got)
	}
}

func TestTerminationLog(t *testing.T) {
	p := newPod(t)
	file := p.dir + "/containers/main/0123abcd"
	p.write(file, "")
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	m := p.add("c", runtime.Mount{Source: file, Destination: "/custom/path"})
	var st unix.Stat_t
	if err := unix.Stat(p.guest.path(m.Source), &st); err != nil || st.Mode&0o777 != 0o666 {
		t.Errorf("mode in the guest is %o, %v", st.Mode, err)
	}
	before := inode(t, file)
	p.write(p.guest.path(m.Source), "it broke")
	if err := p.set.Flush(t.Context(), "another"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); len(got) > 0 {
		t.Errorf("another container's end wrote %q", got)
	}
	if err := p.set.Flush(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "it broke" || inode(t, file) != before {
		t.Errorf("termination log holds %q", got)
	}

	// Shorter than before, and once more by a Set that came later.
	p.write(p.guest.path(m.Source), "x")
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: p.set.state.Dir, State: state})
	if err := p.set.Flush(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "x" {
		t.Errorf("termination log holds %q", got)
	}
}

// A file that has been replaced since it was mounted belongs to somebody else.
func TestReplacedFileIsNotWritten(t *testing.T) {
	p := newPod(t)
	file := p.dir + "/containers/main/log"
	p.write(file, "")
	m := p.add("c", runtime.Mount{Source: file})
	victim := p.base + "/victim"
	p.write(victim, "precious")
	if err := errors.Join(os.Remove(file), os.Symlink(victim, file)); err != nil {
		t.Fatal(err)
	}
	p.write(p.guest.path(m.Source), "junk")
	if err := p.set.Flush(t.Context(), "c"); err != nil && !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(file), os.Link(victim, file)); err != nil {
		t.Fatal(err)
	}
	if err := p.set.Flush(t.Context(), "c"); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "precious" {
		t.Errorf("victim holds %q", got)
	}
}

// As with a bind mount, the guest keeps the file that was mounted.
func TestReplacedFileIsNotRead(t *testing.T) {
	p := newPod(t)
	file := p.base + "/hostpath/f"
	p.write(file, "mounted")
	m := p.add("c", runtime.Mount{Source: file, Readonly: true})
	p.write(p.base+"/another", "of another file")
	if err := os.Rename(p.base+"/another", file); err != nil {
		t.Fatal(err)
	}
	for key := range p.set.state.Volumes {
		p.set.mirrorAgain(key)
	}
	if got := p.read(m.Source); got != "mounted" {
		t.Errorf("the guest has %q", got)
	}
}

func TestWhichFilesAreCopied(t *testing.T) {
	for name, c := range map[string]struct {
		m      runtime.Mount
		source string
		want   bool
	}{
		"only read":             {runtime.Mount{Readonly: true}, "/x", true},
		"written":               {runtime.Mount{Destination: "/x"}, "/x", false},
		"hosts":                 {runtime.Mount{Destination: "/etc/hosts"}, "/x", true},
		"resolv.conf":           {runtime.Mount{Destination: "/etc/resolv.conf/"}, "/x", true},
		"termination log":       {runtime.Mount{Destination: "/dev/termination-log"}, "/x", true},
		"the kubelet's":         {runtime.Mount{Destination: "/x"}, "/var/lib/kubelet/pods/u/containers/c/1", true},
		"the kubelet's hosts":   {runtime.Mount{Destination: "/x"}, "/var/lib/kubelet/pods/u/etc-hosts", true},
		"of a volume of a pod":  {runtime.Mount{Destination: "/x"}, "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/f", false},
		"of a pod's sub-paths":  {runtime.Mount{Destination: "/x"}, "/var/lib/kubelet/pods/u/volume-subpaths/v/c/0", false},
		"something named alike": {runtime.Mount{Destination: "/x"}, "/srv/pods/etc-hosts", false},
	} {
		if got := copied(c.m, c.source); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}

func TestWritableFileIsShared(t *testing.T) {
	p := newPod(t)
	file := p.base + "/db"
	p.write(file, "1")
	seen := p.shared(p.add("c", runtime.Mount{Source: file}))
	if err := os.WriteFile(seen, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "2" {
		t.Errorf("host has %q", got)
	}
	if err := p.set.RemoveContainer(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(seen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount point of a file is left: %v", err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Clean(path), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
