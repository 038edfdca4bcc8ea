package volume

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

func TestRefused(t *testing.T) {
	p := newPod(t)
	socket, pipe, device := p.base+"/socket", p.base+"/pipe", p.base+"/device"
	if err := errors.Join(unix.Mknod(socket, unix.S_IFSOCK|0o600, 0), unix.Mkfifo(pipe, 0o600),
		unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	dir := p.base + "/dir"
	p.mkdir(dir, 0o755)
	p.mount("proc", "proc", p.base+"/outer/proc", "")
	p.mount("tmpfs", "tmpfs", p.base+"/private", "")
	if err := unix.Mount("", p.base+"/private", "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	for name, c := range map[string]struct {
		mount runtime.Mount
		kind  error
		field string
	}{
		"bidirectional":         {runtime.Mount{Source: dir, Propagation: runtime.PropagationBidirectional}, errdefs.ErrInvalidArgument, "mounts[].propagation"},
		"unknown propagation":   {runtime.Mount{Source: dir, Propagation: "x"}, errdefs.ErrInvalidArgument, "mounts[].propagation"},
		"private mount":         {runtime.Mount{Source: p.base + "/private", Propagation: runtime.PropagationHostToContainer}, errdefs.ErrFailedPrecondition, "mounts[].propagation"},
		"relative":              {runtime.Mount{Source: "dir"}, errdefs.ErrInvalidArgument, "mounts[].host_path"},
		"socket":                {runtime.Mount{Source: socket}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"pipe":                  {runtime.Mount{Source: pipe}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"device":                {runtime.Mount{Source: device}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"proc":                  {runtime.Mount{Source: "/proc/sys"}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"sys":                   {runtime.Mount{Source: "/sys/fs"}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"devices":               {runtime.Mount{Source: "/dev"}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"proc below":            {runtime.Mount{Source: p.base + "/outer"}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"the machine's own":     {runtime.Mount{Source: p.base + "/machine"}, errdefs.ErrFailedPrecondition, "mounts[].host_path"},
		"id-mapped and shared":  {runtime.Mount{Source: dir, UIDMappings: ids, GIDMappings: ids}, errdefs.ErrFailedPrecondition, "mounts[].uidMappings"},
		"id-mapped, gids alone": {runtime.Mount{Source: dir, GIDMappings: ids}, errdefs.ErrFailedPrecondition, "mounts[].uidMappings"},
	} {
		t.Run(name, func(t *testing.T) {
			c.mount.Destination = "/mnt"
			_, err := p.set.Add(t.Context(), "c", c.mount)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.field) {
				t.Errorf("got %v, want a %v that names %s", err, c.kind, c.field)
			}
			if err != nil && name != "relative" && !strings.Contains(err.Error(), "docs/limitations.md") {
				t.Errorf("%v does not say where to read on", err)
			}
		})
	}
	if len(p.set.state.Volumes) > 0 {
		t.Errorf("refused volumes are kept: %v", p.set.state.Volumes)
	}
}

func TestMemoryEmptyDir(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~empty-dir/cache"
	p.mount("tmpfs", "tmpfs", dir, "size=8m,mode=2770,gid=4711")
	a := p.add("a", runtime.Mount{Source: dir})
	m, ok := p.guest.mounted(a.Source)
	if !ok || m.Type != "tmpfs" {
		t.Fatalf("mounted %+v", p.guest.mounts)
	}
	if got := []string{option(m, "size="), option(m, "mode="), option(m, "uid="), option(m, "gid=")}; !slices.Equal(got, []string{"8388608", "2770", "0", "4711"}) {
		t.Errorf("size, mode, uid and gid are %q", got)
	}
	if b := p.add("b", runtime.Mount{Source: dir, Readonly: true}); b.Source != a.Source {
		t.Errorf("second container has %s, the first %s", b.Source, a.Source)
	}
	if err := p.set.RemoveContainer(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := p.set.RemoveContainer(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if c := p.add("c", runtime.Mount{Source: dir}); c.Source != a.Source {
		t.Error("the volume ended with its container")
	}
}

func TestMemoryEmptyDirSubPath(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~empty-dir/cache"
	p.mount("tmpfs", "tmpfs", dir, "size=8m")
	whole := p.add("a", runtime.Mount{Source: dir})
	p.mkdir(dir+"/x/y", 0o755)
	sub := p.dir + "/volume-subpaths/cache/main/0"
	p.mount("", dir+"/x/y", sub, "")
	m := p.add("a", runtime.Mount{Source: sub})
	if m.Source != whole.Source+"/x/y" {
		t.Errorf("sub-path of %s is %s", whole.Source, m.Source)
	}
	if info, err := os.Stat(p.guest.path(m.Source)); err != nil || !info.IsDir() {
		t.Errorf("sub-path in the guest: %v", err)
	}
}

func TestDiskEmptyDir(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~empty-dir/data"
	p.mkdir(dir, 0o755)
	if err := errors.Join(os.Chown(dir, 999, 998), unix.Chmod(dir, 0o2775)); err != nil {
		t.Fatal(err)
	}
	m := p.add("a", runtime.Mount{Source: dir})
	if _, ok := below(m.Source, disk); !ok {
		t.Fatalf("emptyDir lies at %s", m.Source)
	}
	var st unix.Stat_t
	if err := unix.Stat(p.guest.path(m.Source), &st); err != nil || st.Uid != 999 || st.Gid != 998 || st.Mode&0o7777 != 0o2775 {
		t.Errorf("emptyDir in the guest is %d:%d %o, %v", st.Uid, st.Gid, st.Mode, err)
	}

	// A sub-path, as the kubelet mounts it: made on the host, or a file that a container
	// wrote in the guest, of which the host knows nothing.
	for name, isDir := range map[string]bool{"sub": true, "config.yaml": false} {
		if !isDir {
			p.write(p.guest.path(m.Source+"/"+name), "written by a container")
		}
		p.mkdir(dir+"/"+name, 0o750)
		bind := p.dir + "/volume-subpaths/data/main/" + name
		p.mount("", dir+"/"+name, bind, "")
		got := p.add("b", runtime.Mount{Source: bind})
		info, err := os.Stat(p.guest.path(got.Source))
		if err != nil || info.IsDir() != isDir || got.Source != m.Source+"/"+name {
			t.Errorf("sub-path %s is %s: %v", name, got.Source, err)
		}
	}

	// What a container has made of a sub-path stays as it is.
	if err := os.Chown(p.guest.path(m.Source+"/sub"), 77, 77); err != nil {
		t.Fatal(err)
	}
	p.add("c", runtime.Mount{Source: p.dir + "/volume-subpaths/data/main/sub"})
	if err := unix.Stat(p.guest.path(m.Source+"/sub"), &st); err != nil || st.Uid != 77 {
		t.Errorf("sub-path belongs to %d, %v", st.Uid, err)
	}
	if err := errors.Join(os.Remove(p.guest.path(m.Source+"/sub")), os.Symlink("/etc", p.guest.path(m.Source+"/sub"))); err != nil {
		t.Fatal(err)
	}
	if _, err := p.set.Add(t.Context(), "d", runtime.Mount{Source: p.dir + "/volume-subpaths/data/main/sub"}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a link in the place of a sub-path: %v", err)
	}
}

// TestSubPathBelowBindMount: the kubelet's directory may be a bind mount, so that its files
// have another name too. Both are one emptyDir.
func TestSubPathBelowBindMount(t *testing.T) {
	p := newPod(t)
	p.mkdir(p.base+"/disk/pods/uid-2", 0o755)
	p.mount("", p.base+"/disk", p.base+"/kubelet", "")
	pod := p.base + "/kubelet/pods/uid-2"
	dir := pod + "/volumes/kubernetes.io~empty-dir/data"
	p.mkdir(dir+"/a/b", 0o755)
	whole := p.add("a", runtime.Mount{Source: dir})
	bind := pod + "/volume-subpaths/data/main/0"
	p.mount("", dir+"/a/b", bind, "")
	if got := p.add("b", runtime.Mount{Source: bind}); got.Source != whole.Source+"/a/b" {
		t.Errorf("the sub-path is at %s, the emptyDir at %s", got.Source, whole.Source)
	}
}

func TestReattach(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/data"
	p.write(dir+"/f", "host")
	shared := p.shared(p.add("a", runtime.Mount{Source: dir}))
	p.write(p.base+"/hosts", "one")
	hosts := p.add("a", runtime.Mount{Source: p.base + "/hosts", Destination: "/etc/hosts"})
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	// An export that was made after the state had been written.
	lost := export{dir: p.set.state.Dir, name: "99"}
	src, err := openSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.close()
	if err := lost.mount(src); err != nil {
		t.Fatal(err)
	}
	p.write(p.base+"/hosts", "changed while nobody looked")

	p.set = p.open(Options{Dir: p.set.state.Dir, State: state})
	if _, err := os.Stat(shared + "/f"); err != nil {
		t.Errorf("export did not outlive the Set: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(lost.dir, lost.name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("export that nobody knows of: %v", err)
	}
	eventually(t, "change while nobody looked", func() bool { return p.read(hosts.Source) == "changed while nobody looked" })
	p.write(p.base+"/hosts", "two")
	eventually(t, "change afterwards", func() bool { return p.read(hosts.Source) == "two" })
	if again := p.add("b", runtime.Mount{Source: dir}); p.shared(again) != shared {
		t.Errorf("a second container got %s", again.Source)
	}
	// The machine has died while there was no daemon.
	if state, err = p.set.State(); err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	dead, err := New(Options{State: state})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dead.Add(t.Context(), "c", runtime.Mount{Source: dir}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("volume for a machine that is gone: %v", err)
	}
	for _, c := range []string{"a", "b", "a"} {
		if err := errors.Join(dead.Flush(t.Context(), c), dead.RemoveContainer(t.Context(), c)); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(dead.Close(), dead.Close(), dead.RemoveContainer(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(shared); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("export after Close: %v", err)
	}
}

func TestFailedAddLeavesNothing(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/data"
	p.write(dir+"/f", "")
	empty := p.dir + "/volumes/kubernetes.io~empty-dir/data"
	p.mkdir(empty, 0o755)
	p.guest.setFail(errdefs.ErrUnavailable)
	for _, m := range []runtime.Mount{
		{Source: dir}, {Source: dir + "/f", Readonly: true}, {Source: empty},
	} {
		if _, err := p.set.Add(t.Context(), "a", m); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("%s: %v", m.Source, err)
		}
	}
	if entries, err := os.ReadDir(p.set.state.Dir); err != nil || len(entries) > 0 || len(p.set.state.Volumes) > 0 {
		t.Errorf("left: %v, %v, %v", entries, p.set.state.Volumes, err)
	}
	p.guest.setFail(nil)
	p.add("a", runtime.Mount{Source: dir})
}

// A daemon died after the guest had done what it asked for, and before it wrote that down.
func TestUntold(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/data"
	p.write(dir+"/f", "host")
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	first := p.add("a", runtime.Mount{Source: dir})
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: p.set.state.Dir, State: state})
	again := p.add("a", runtime.Mount{Source: dir})
	if again.Source == first.Source {
		t.Error("a name is used twice")
	}
	if _, err := os.Stat(p.shared(again) + "/f"); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(p.set.state.Dir); err != nil || len(entries) != 1 {
		t.Errorf("exports are %v, %v", entries, err)
	}
}

func TestMissingSourceIsMade(t *testing.T) {
	p := newPod(t)
	p.add("a", runtime.Mount{Source: p.base + "/new/dir"})
	if info, err := os.Stat(p.base + "/new/dir"); err != nil || !info.IsDir() {
		t.Errorf("source: %v", err)
	}
}
