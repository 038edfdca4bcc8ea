package volume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

func TestShared(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/data"
	p.write(dir+"/f", "host")
	m := p.add("a", runtime.Mount{Source: dir, Options: []string{"noexec"}})
	if !slices.Equal(m.Options, []string{"noexec", "nodev"}) {
		t.Errorf("options are %q", m.Options)
	}
	if mount, ok := p.guest.mounted(sharedDir); !ok || mount.Type != "9p" || mount.Source != "cricket.volumes" {
		t.Errorf("guest mounted %+v", p.guest.mounts)
	}
	seen := p.shared(m)
	if b, err := os.ReadFile(seen + "/f"); err != nil || string(b) != "host" {
		t.Errorf("guest reads %q, %v", b, err)
	}
	if err := os.WriteFile(seen+"/g", []byte("guest"), 0o600); err != nil {
		t.Errorf("guest writes: %v", err)
	}
	if got := p.add("b", runtime.Mount{Source: dir, Readonly: true}); got.Source != m.Source || !got.Readonly {
		t.Errorf("one that reads does not join one that writes: %+v", got)
	}
	for _, c := range []string{"a", "b"} {
		if _, err := os.Stat(seen + "/f"); err != nil {
			t.Errorf("before removal of %s: %v", c, err)
		}
		if err := p.set.RemoveContainer(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(seen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("export is still there: %v", err)
	}
	if _, err := os.Stat(dir + "/g"); err != nil {
		t.Errorf("what the guest wrote: %v", err)
	}
}

func TestSharedReadOnly(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/data"
	p.write(dir+"/f", "host")
	p.mount("tmpfs", "tmpfs", dir+"/below", "")
	all := p.shared(p.add("b", runtime.Mount{Source: dir, Readonly: true, RecursiveReadOnly: true}))
	p.add("writer", runtime.Mount{Source: dir})
	m := p.add("a", runtime.Mount{Source: dir, Readonly: true})
	if m.Readonly {
		t.Error("in the guest the mount below would be read-only too")
	}
	top := p.shared(m)
	if m := p.add("c", runtime.Mount{Source: dir, Readonly: true, RecursiveReadOnly: true}); !m.Readonly || !m.RecursiveReadOnly {
		t.Errorf("one that joins a writer is %+v", m)
	}
	for path, want := range map[string]error{
		top + "/f": unix.EROFS, top + "/below/f": nil,
		all + "/f": unix.EROFS, all + "/below/f": unix.EROFS,
	} {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("write to %s: %v, want %v", path, err, want)
		}
	}
}

// Another way than MakeDir, of a machine that was made without: nothing that a guest put
// there is followed.
func TestExportDirOfAnotherKind(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/plain"
	p.mount("", dir, dir, "")
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: dir})
	data, victim := p.base+"/data", p.base+"/victim"
	p.write(data+"/f", "host")
	p.mkdir(victim, 0o755)
	if err := os.Symlink(victim, dir+"/1"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.set.Add(t.Context(), "a", runtime.Mount{Source: data}); err == nil {
		t.Error("a link in the place of the mount point was followed")
	}
	if _, err := os.Stat(victim + "/f"); err == nil {
		t.Error("the volume is mounted where a guest wanted it")
	}
	seen := p.shared(p.add("a", runtime.Mount{Source: data}))
	if _, err := os.Stat(seen + "/f"); err != nil {
		t.Error(err)
	}
	if err := p.set.RemoveContainer(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	p.write(dir+"/77/f", "in the way")
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: dir, State: state})
	if err := p.set.Close(); err != nil {
		t.Errorf("a guest keeps its pod from being removed: %v", err)
	}
}

// A guest sees the directory of all exports; it must not be able to change it.
func TestExportDirIsReadOnly(t *testing.T) {
	p := newPod(t)
	if err := os.Symlink("/etc", filepath.Join(p.set.state.Dir, "1")); !errors.Is(err, unix.EROFS) {
		t.Errorf("a link in the place of a mount point: %v", err)
	}
}

func TestSharedFollowsMountsOnTheHost(t *testing.T) {
	p := newPod(t)
	host := p.base + "/host"
	p.mount("tmpfs", "tmpfs", host, "")
	if err := unix.Mount("", host, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"early", "late"} {
		p.mkdir(host+"/dir/"+d, 0o755)
	}
	p.mount("tmpfs", "tmpfs", host+"/dir/early", "")
	p.write(host+"/dir/early/f", "early")
	private := p.shared(p.add("a", runtime.Mount{Source: host + "/dir"}))
	slave := p.shared(p.add("a", runtime.Mount{Source: host + "/dir", Propagation: runtime.PropagationHostToContainer}))
	p.mount("tmpfs", "tmpfs", host+"/dir/late", "")
	p.write(host+"/dir/late/f", "late")
	for path, want := range map[string]bool{
		private + "/early/f": true, slave + "/early/f": true, private + "/late/f": false, slave + "/late/f": true,
	} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := p.set.RemoveContainer(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"early", "late"} {
		if _, err := os.Stat(host + "/dir/" + d + "/f"); err != nil {
			t.Errorf("removing the volume took the host's mount: %v", err)
		}
	}
}

// The kubelet unmounts what is below a volume and removes the directory while a container
// uses the volume; when the container is gone nothing holds the file system.
func TestMountBelowIsTakenAway(t *testing.T) {
	for _, readonly := range []bool{false, true} {
		p := newPod(t)
		dir := p.base + "/data"
		for _, name := range []string{"gone", "kept"} {
			p.mount("tmpfs", "tmpfs", dir+"/"+name, "")
			p.write(dir+"/"+name+"/f", "")
		}
		seen := p.shared(p.add("a", runtime.Mount{Source: dir, Readonly: readonly, RecursiveReadOnly: readonly}))
		if _, err := os.Stat(seen + "/gone/f"); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir+"/gone", unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(dir + "/gone"); err != nil {
			t.Errorf("the directory cannot be removed: %v", err)
		}
		if _, err := os.Stat(seen + "/kept/f"); err != nil {
			t.Errorf("another went along: %v", err)
		}
		if err := p.set.RemoveContainer(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		theirs, err := os.ReadFile(filepath.Join(filepath.Dir(p.root), "mountinfo"))
		if err != nil || strings.Contains(string(theirs), p.machine+"/") {
			t.Errorf("the hypervisor keeps a volume, %v:\n%s", err, theirs)
		}
	}
}

// Close does not wait for a process that has a file of the volume open.
func TestCloseWhileInUse(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/data"
	p.write(dir+"/f", "")
	f, err := os.Open(p.shared(p.add("a", runtime.Mount{Source: dir})) + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := p.set.Close(); err != nil {
		t.Error(err)
	}
	assertNoMounts(t, p.set.state.Dir+"/")
}

// An export that is made again shows what was shown, not what a link on the way leads to by now.
func TestExportIsNotLedElsewhere(t *testing.T) {
	p := newPod(t)
	secret, dir := p.base+"/secret", p.base+"/hostpath/sub"
	p.write(secret+"/data/f", "of the host")
	p.write(dir+"/data/f", "old")
	m := p.add("c", runtime.Mount{Source: dir + "/data"})
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(p.machine, filepath.Base(m.Source))
	if err := errors.Join(p.set.Release(), detach(seen), os.Rename(dir, dir+".old"), os.Symlink(secret, dir)); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: p.machine, State: state})
	if b, err := os.ReadFile(seen + "/f"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the guest sees %q, %v", b, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.set.Release(), os.Rename(dir+".old", dir)); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: p.machine, State: state})
	if b, err := os.ReadFile(seen + "/f"); err != nil || string(b) != "old" {
		t.Errorf("with the directory back the guest sees %q, %v", b, err)
	}
}
