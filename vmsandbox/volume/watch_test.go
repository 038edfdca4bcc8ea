package volume

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// A user has 128 inotify instances, and a node may have more pods.
func TestSetsShareOneWatcher(t *testing.T) {
	p := newPod(t)
	before := inotifies(t)
	guests, sources := map[string]*fakeGuest{}, map[string]string{}
	for i := range 20 {
		file := fmt.Sprint(p.base, "/files/", i)
		p.write(file, "one")
		p.guest = newFakeGuest(t)
		p.set = p.open(Options{Dir: p.machine})
		guests[file] = p.guest
		sources[file] = p.add("c", runtime.Mount{Source: file, Readonly: true}).Source
	}
	if n := inotifies(t) - before; n > 1 {
		t.Errorf("%d inotify instances", n)
	}
	for file, source := range sources {
		p.write(file, "two")
		p.guest = guests[file]
		eventually(t, "change of "+file, func() bool { return p.read(source) == "two" })
	}
}

func inotifies(t *testing.T) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if what, err := os.Readlink(fd); err == nil && what == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

// subjectsOf is what is watched now.
func subjectsOf(w *Watcher) map[int32]map[subject]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.subjects)
}

// A daemon that cannot watch when it comes back does so later.
func TestWatchIsTriedAgain(t *testing.T) {
	p := newPod(t)
	file := p.base + "/f"
	p.write(file, "one")
	m := p.add("c", runtime.Mount{Source: file, Readonly: true})
	state, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	if left := subjectsOf(p.watcher); len(left) > 0 {
		t.Errorf("a Set that was released watches %v", left)
	}
	refuse := func(yes bool) {
		p.watcher.mu.Lock()
		p.watcher.closed = yes
		p.watcher.mu.Unlock()
	}
	t.Cleanup(func() { refuse(false) })
	refuse(true)
	p.set = p.open(Options{Dir: p.machine, State: state})
	eventually(t, "an attempt", func() bool {
		p.set.follow.mu.Lock()
		defer p.set.follow.mu.Unlock()
		return len(p.set.follow.changed) > 0
	})
	refuse(false)
	eventually(t, "a watch", func() bool { return len(subjectsOf(p.watcher)) == 1 })
	p.write(file, "two")
	eventually(t, "a change", func() bool { return p.read(m.Source) == "two" })
}

// The kernel drops events of a queue that is full and says so: everything is looked at.
func TestLostEvents(t *testing.T) {
	p := newPod(t)
	dir := p.dir + "/volumes/kubernetes.io~secret/s"
	p.publish(dir, "..v1", map[string]string{"k": "1"})
	m := p.add("c", runtime.Mount{Source: dir, Readonly: true})
	watched := subjectsOf(p.watcher)
	p.watcher.mu.Lock()
	clear(p.watcher.subjects)
	p.watcher.mu.Unlock()
	p.publish(dir, "..v2", map[string]string{"k": "2"})
	// Events come in order: with this one the others are gone.
	last := &follower{}
	last.init()
	p.write(p.base+"/last", "")
	if _, err := p.watcher.add(subject{last, "last"}, p.base+"/last", watchFile); err != nil {
		t.Fatal(err)
	}
	p.write(p.base+"/last", "written")
	<-last.wake
	p.watcher.mu.Lock()
	maps.Copy(p.watcher.subjects, watched)
	p.watcher.mu.Unlock()
	if got := p.read(m.Source + "/k"); got != "1" {
		t.Errorf("without events the guest has %q", got)
	}
	event := make([]byte, unix.SizeofInotifyEvent)
	event[5] = unix.IN_Q_OVERFLOW >> 8
	p.watcher.tell(event)
	eventually(t, "new state", func() bool { return p.read(m.Source+"/k") == "2" })
}
