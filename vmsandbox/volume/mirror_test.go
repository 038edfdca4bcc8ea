package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// publish writes an API volume as the kubelet's atomic writer does.
func (p *pod) publish(dir, version string, files map[string]string) {
	p.t.Helper()
	old, _ := os.Readlink(dir + "/..data")
	for name, content := range files {
		p.write(dir+"/"+version+"/"+name, content)
	}
	must := func(err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	must(os.Symlink(version, dir+"/..data_tmp"))
	must(os.Rename(dir+"/..data_tmp", dir+"/..data"))
	tops := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if !tops[top] {
			tops[top] = true
			if err := os.Symlink("..data/"+top, dir+"/"+top); err != nil && !errors.Is(err, os.ErrExist) {
				p.t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	must(err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !tops[e.Name()] {
			must(os.Remove(dir + "/" + e.Name()))
		}
	}
	if old != "" {
		must(os.RemoveAll(dir + "/" + old))
	}
}

func TestAPIVolume(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~configmap/conf"
	p.publish(dir, "..v1", map[string]string{"a": "a1", "gone": "x", "nested/b": "b1"})
	if err := errors.Join(os.Chmod(dir+"/..v1/a", 0o440), os.Chown(dir+"/..v1/a", 0, 2000), os.Chmod(dir, os.ModeSticky|0o777)); err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	m := p.add("c", runtime.Mount{Source: dir, Readonly: true, UIDMappings: ids, GIDMappings: ids})
	if rel, ok := below(m.Source, mirrorDir); !ok || strings.Contains(rel, "/") || !m.Readonly || len(m.UIDMappings) != 1 {
		t.Errorf("mount is %+v", m)
	}
	if got := p.read(m.Source+"/a") + p.read(m.Source+"/nested/b"); got != "a1b1" {
		t.Errorf("guest reads %q", got)
	}
	var st, top unix.Stat_t
	if err := errors.Join(unix.Stat(p.guest.path(m.Source+"/a"), &st), unix.Stat(p.guest.path(m.Source), &top)); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o440 || st.Gid != 2000 || top.Mode&0o7777 != 0o1777 {
		t.Errorf("file is %o of group %d, directory %o", st.Mode, st.Gid, top.Mode)
	}

	// A watcher in the container sees the exchange, and everything is there by then.
	events, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(events)
	if _, err := unix.InotifyAddWatch(events, p.guest.path(m.Source), unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	p.guest.order(m.Source)
	p.publish(dir, "..v2", map[string]string{"a": "a2", "new": "n", "nested/b": "b2"})
	eventually(t, "new state", func() bool {
		return p.read(m.Source+"/a")+p.read(m.Source+"/nested/b")+p.read(m.Source+"/new") == "a2b2n"
	})
	buf := make([]byte, 4096)
	n, err := unix.Read(events, buf)
	if err != nil || !bytes.Contains(buf[:n], []byte("..data\x00")) {
		t.Errorf("watcher saw %q, %v", buf[:max(n, 0)], err)
	}
	eventually(t, "removal of the old state", func() bool {
		entries, err := os.ReadDir(p.guest.path(m.Source))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return err == nil && slices.Equal(names, []string{"..data", "..v2", "a", "nested", "new"})
	})
	order := p.guest.order(m.Source)
	swap := slices.Index(order, "..data")
	for i, name := range order {
		if inData := strings.HasPrefix(name, "..v2"); inData != (i < swap) && name != "..data" && name != "" {
			t.Errorf("%s is written at %d, the exchange is at %d: %q", name, i, swap, order)
		}
	}

	if err := p.set.RemoveContainer(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(p.guest.path(m.Source)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mirrored volume is left: %v", err)
	}
}

// A daemon's restart tells containers nothing new.
func TestReattachWritesNothing(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~secret/s"
	p.publish(dir, "..v1", map[string]string{"k": "1"})
	m := p.add("c", runtime.Mount{Source: dir, Readonly: true})
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	p.guest.order(m.Source)
	looked := make(chan struct{}, 100) // once is expected
	p.set = p.open(Options{Dir: p.set.state.Dir, State: state, Changed: func() { looked <- struct{}{} }})
	<-looked
	if order := p.guest.order(m.Source); len(order) > 0 {
		t.Errorf("written again: %q", order)
	}
}

func TestMirrorIsTriedAgain(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~secret/s"
	p.publish(dir, "..v1", map[string]string{"k": "1"})
	m := p.add("c", runtime.Mount{Source: dir, Readonly: true})
	p.guest.setFail(errdefs.ErrUnavailable)
	p.publish(dir, "..v2", map[string]string{"k": "2"})
	eventually(t, "an attempt", func() bool {
		p.set.follow.mu.Lock()
		defer p.set.follow.mu.Unlock()
		return len(p.set.follow.changed) > 0
	})
	p.guest.setFail(nil)
	eventually(t, "success", func() bool { return p.read(m.Source+"/k") == "2" })
}

func TestLargeAPIVolumeIsShared(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"file":    {"k": strings.Repeat("x", maxFile+1)},
		"volume":  manyFiles(17, maxFile),
		"entries": manyFiles(maxEntries, 1),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(t)
			dir := p.dir + "/volumes/kubernetes.io~configmap/conf"
			p.publish(dir, "..v1", files)
			m := p.add("c", runtime.Mount{Source: dir, Readonly: true})
			if _, err := os.Stat(p.shared(m) + "/..data"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A hostPath can look like an API volume and hold what those never do.
func TestStrangeAPIVolumeIsShared(t *testing.T) {
	p := newPod(t)
	dir := p.base + "/hostpath"
	p.publish(dir, "..v1", map[string]string{"k": "1"})
	if err := unix.Mkfifo(dir+"/..v1/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	p.shared(p.add("c", runtime.Mount{Source: dir, Readonly: true}))
}

func manyFiles(n, size int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out[fmt.Sprint("k", i)] = strings.Repeat("x", size)
	}
	return out
}

// A directory that a container can write into must not make the daemon read what links
// lead to.
func TestMirrorFollowsNoLinks(t *testing.T) {
	p := newPod(t)
	secret := p.base + "/secret"
	p.write(secret+"/k", "of the host")
	dir := p.base + "/hostpath"
	p.publish(dir, "..v1", map[string]string{"a": "1"})
	if err := errors.Join(os.Symlink(secret+"/k", dir+"/link"), os.Symlink(secret, dir+"/..v1/dir")); err != nil {
		t.Fatal(err)
	}
	m := p.add("c", runtime.Mount{Source: dir, Readonly: true})
	if target, err := os.Readlink(p.guest.path(m.Source + "/link")); err != nil || target != secret+"/k" {
		t.Errorf("link became %q, %v", target, err)
	}
	if _, err := os.Stat(p.guest.path(m.Source + "/..v1/dir/k")); err != nil {
		t.Error("the fake guest shares the host's files: the link is kept, not what it leads to")
	}
	if target, err := os.Readlink(p.guest.path(m.Source + "/..v1/dir")); err != nil || target != secret {
		t.Errorf("link to a directory became %q, %v", target, err)
	}
}

// A container that can write beside what is mirrored, through another mount, must not make the
// daemon read what a link on the way there leads to.
func TestMirrorIsNotLedElsewhere(t *testing.T) {
	p := newPod(t)
	secret, dir := p.base+"/secret", p.base+"/hostpath/sub"
	for where, content := range map[string]string{secret: "of the host", dir: "old"} {
		p.write(where+"/f", content)
		p.publish(where+"/conf", "..v1", map[string]string{"k": content})
	}
	file := p.add("c", runtime.Mount{Source: dir + "/f", Readonly: true})
	conf := p.add("c", runtime.Mount{Source: dir + "/conf", Destination: "/conf", Readonly: true})
	look := func(when string) {
		t.Helper()
		for key := range p.set.state.Volumes {
			if !p.set.mirrorAgain(key) {
				t.Errorf("%s %s is tried again for ever", when, key)
			}
		}
		if a, b := p.read(file.Source), p.read(conf.Source+"/k"); a != "old" || b != "old" {
			t.Errorf("%s the guest has %q and %q", when, a, b)
		}
	}
	if err := errors.Join(os.Rename(dir, dir+".old"), os.Symlink(secret, dir), os.Chmod(dir+".old/f", 0o600)); err != nil {
		t.Fatal(err)
	}
	look("with a link on the way")
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	p.set = p.open(Options{Dir: p.set.state.Dir, State: state})
	look("after a restart")
}

func TestBatches(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~configmap/conf"
	p.publish(dir, "..v1", manyFiles(11, maxFile))
	m := p.add("c", runtime.Mount{Source: dir, Readonly: true})
	for i := range 11 {
		if got := p.read(fmt.Sprint(m.Source, "/k", i)); len(got) != maxFile {
			t.Errorf("k%d has %d bytes", i, len(got))
		}
	}
	if p.guest.largest > putBytes {
		t.Errorf("one call carried %d bytes", p.guest.largest)
	}
}
