package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
	"github.com/cricket-cri/cricket/vmsandbox/volume"
)

// TestInAGuest shows every kind of volume to a guest that had booted before.
func TestInAGuest(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "volumes")
	if err := volume.MakeDir(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volume.RemoveDir(dir); err != nil {
			t.Error(err)
		}
	})
	image := filepath.Join(base, "disk.ext4")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 256<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := guesttest.Boot(t, guesttest.Config{Volumes: dir, Disks: map[string]string{"rw0": image}})
	watcher := volume.NewWatcher()
	t.Cleanup(func() {
		if err := watcher.Close(); err != nil {
			t.Error(err)
		}
	})
	set, err := volume.New(volume.Options{
		Guest: m.Guest, Dir: dir, Watcher: watcher,
		Disk: func(ctx context.Context, _ int) (string, string, error) {
			disk := agent.DirDisks + "/rw0"
			return disk, "", m.Guest.Mount(ctx, agent.Mount{Slot: "rw0", Target: disk, Type: "ext4"})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	g := &guest{Client: m.Guest, monitor: m.Monitor, set: set}

	t.Cleanup(func() { _ = unix.Unmount(base+memoryDir, unix.MNT_DETACH) })
	t.Run("shared", func(t *testing.T) { g.shared(t, filepath.Join(base, "data")) })
	t.Run("read-only", func(t *testing.T) { g.readOnly(t, filepath.Join(base, "constant")) })
	t.Run("API volume", func(t *testing.T) { g.apiVolume(t, filepath.Join(base, "conf")) })
	t.Run("single file", func(t *testing.T) { g.file(t, filepath.Join(base, "hosts")) })
	t.Run("emptyDirs", func(t *testing.T) { g.emptyDirs(t, base) })
	g.program(t, base)
	t.Run("watchers", func(t *testing.T) { g.watchers(t, filepath.Join(base, "watched")) })
	t.Run("later mounts", func(t *testing.T) { g.laterMounts(t, filepath.Join(base, "peers")) })
	t.Run("semantics", func(t *testing.T) { g.semantics(t, base) })
}

// The kubelet's directories of emptyDirs.
const (
	memoryDir = "/pods/uid/volumes/kubernetes.io~empty-dir/memory"
	diskDir   = "/pods/uid/volumes/kubernetes.io~empty-dir/disk"
)

type guest struct {
	*agent.Client
	set     *volume.Set
	monitor *monitor.Client
	image   string // in the guest
}

func (g *guest) add(t *testing.T, m runtime.Mount) string {
	t.Helper()
	began := time.Now()
	out, err := g.set.Add(t.Context(), "c", m)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("added in %v", time.Since(began).Round(100*time.Microsecond))
	return out.Source
}

func (g *guest) read(t *testing.T, path string) string {
	f, err := g.Get(t.Context(), path)
	if err != nil {
		return err.Error()
	}
	return string(f.Content)
}

func (g *guest) write(t *testing.T, path, content string) error {
	return g.Put(t.Context(), []agent.File{{Path: path, Mode: unix.S_IFREG | 0o640, UID: 4711, GID: 4712, Content: []byte(content)}})
}

func (g *guest) shared(t *testing.T, dir string) {
	write(t, dir+"/f", "host")
	source := g.add(t, runtime.Mount{Source: dir})
	if got := g.read(t, source+"/f"); got != "host" {
		t.Errorf("guest reads %q", got)
	}
	if err := g.write(t, source+"/g", "guest"); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/g", &st); err != nil || st.Uid != 4711 || st.Gid != 4712 || st.Mode&0o777 != 0o640 {
		t.Errorf("on the host it is %d:%d %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
	if b, _ := os.ReadFile(dir + "/g"); string(b) != "guest" {
		t.Errorf("host reads %q", b)
	}
	write(t, dir+"/f", "changed by the host")
	if got := g.read(t, source+"/f"); got != "changed by the host" {
		t.Errorf("after a change by the host the guest reads %q", got)
	}
	if err := g.set.RemoveContainer(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if got := g.read(t, source+"/f"); got == "changed by the host" {
		t.Error("the guest still sees a volume that was removed")
	}
}

// laterMounts below a source on the host appear in the guest, and disappear.
func (g *guest) laterMounts(t *testing.T, dir string) {
	if err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, ""), unix.Mount("", dir, "", unix.MS_SHARED, ""),
		os.MkdirAll(dir+"/volume/later", 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	source := g.add(t, runtime.Mount{Source: dir + "/volume", Propagation: runtime.PropagationHostToContainer})
	if err := unix.Mount("tmpfs", dir+"/volume/later", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/volume/later/f", "later")
	if got := g.read(t, source+"/later/f"); got != "later" {
		t.Errorf("guest reads %q", got)
	}
	if err := unix.Unmount(dir+"/volume/later", 0); err != nil {
		t.Errorf("the host cannot unmount what the guest has seen: %v", err)
	}
	if got := g.read(t, source+"/later/f"); got == "later" {
		t.Error("the guest still sees what was unmounted")
	}
}

func (g *guest) readOnly(t *testing.T, dir string) {
	write(t, dir+"/f", "host")
	if err := errors.Join(os.Mkdir(dir+"/below", 0o755), unix.Mount("tmpfs", dir+"/below", "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir+"/below", unix.MNT_DETACH) })
	source := g.add(t, runtime.Mount{Source: dir, Readonly: true})
	if err := g.write(t, source+"/below/f", "guest"); err != nil {
		t.Errorf("a write to a mount below a read-only volume: %v", err)
	}
	if err := g.write(t, source+"/f", "guest"); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a write to a read-only volume: %v", err)
	}
	if err := g.write(t, filepath.Dir(source)+"/99", "guest"); err == nil {
		t.Error("the guest wrote into the root of all exports")
	}
}

func (g *guest) apiVolume(t *testing.T, dir string) {
	publish(t, dir, "..1", "one")
	source := g.add(t, runtime.Mount{Source: dir, Readonly: true})
	if link, data := g.read(t, source+"/key"), g.read(t, source+"/..data"); link != "..data/key" || data != "..1" {
		t.Errorf("links in the guest lead to %q and %q", link, data)
	}
	if got := g.read(t, source+"/..1/key"); got != "one" {
		t.Errorf("guest reads %q", got)
	}
	began := time.Now()
	publish(t, dir, "..2", "two")
	eventually(t, "the exchange in the guest", func() bool { return g.read(t, source+"/..data") == "..2" })
	t.Logf("followed in %v", time.Since(began).Round(100*time.Microsecond))
	if got := g.read(t, source+"/..2/key"); got != "two" {
		t.Errorf("guest reads %q", got)
	}
	eventually(t, "removal of the old state", func() bool { return g.read(t, source+"/..1/key") != "one" })
}

// publish exchanges the state of an API volume with one key.
func publish(t *testing.T, dir, version, content string) {
	t.Helper()
	old, _ := os.Readlink(dir + "/..data")
	write(t, dir+"/"+version+"/key", content)
	if err := errors.Join(os.Symlink(version, dir+"/..data_tmp"), os.Rename(dir+"/..data_tmp", dir+"/..data")); err != nil {
		t.Error(err)
	}
	if old == "" {
		if err := os.Symlink("..data/key", dir+"/key"); err != nil {
			t.Error(err)
		}
		return
	}
	if err := os.RemoveAll(dir + "/" + old); err != nil {
		t.Error(err)
	}
}

func (g *guest) file(t *testing.T, hosts string) {
	write(t, hosts, "one")
	source := g.add(t, runtime.Mount{Source: hosts, Destination: "/etc/hosts"})
	write(t, hosts, "two")
	eventually(t, "rewritten file", func() bool { return g.read(t, source) == "two" })
	if err := g.write(t, source, "guest"); err != nil {
		t.Fatal(err)
	}
	if err := g.set.Flush(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(hosts); string(b) != "guest" {
		t.Errorf("host reads %q", b)
	}
}

func (g *guest) emptyDirs(t *testing.T, base string) {
	memory, disk := base+memoryDir, base+diskDir
	for _, d := range []string{memory, disk} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=12m"); err != nil {
		t.Fatal(err)
	}
	tmpfs, onDisk := g.add(t, runtime.Mount{Source: memory}), g.add(t, runtime.Mount{Source: disk})
	for _, source := range []string{tmpfs, onDisk} {
		if err := g.write(t, source+"/f", "x"); err != nil {
			t.Error(err)
		}
	}
	large := strings.Repeat("x", 1<<20)
	fits := 0
	for fits < 20 && g.write(t, fmt.Sprint(tmpfs, "/large", fits), large) == nil {
		fits++
	}
	if fits < 10 || fits > 12 {
		t.Errorf("%d MiB fit into an emptyDir of 12 MiB", fits)
	}
	for i := range fits + 1 {
		if err := g.Remove(t.Context(), []string{fmt.Sprint(tmpfs, "/large", i)}); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(disk); err != nil || len(entries) > 0 {
		t.Errorf("the host has %v, %v", entries, err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not within 30 s: %s", what)
}
