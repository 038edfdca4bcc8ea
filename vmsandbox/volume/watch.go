package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher tells which of several paths of the host have changed. It is one inotify
// instance and one goroutine, both of which close ends.
type watcher struct {
	file    *os.File
	changed func(names []string)

	mu    sync.Mutex
	names map[int32]map[string]bool // by watch: one path has one watch, whoever wants it
	done  chan struct{}
}

const (
	// watchDir are the events of the kubelet's atomic writer and of changed permissions.
	watchDir = unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_ONLYDIR
	// watchFile are those of a file that is written in place.
	watchFile = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB
)

// newWatcher starts to watch. changed is called from one goroutine and must not block for
// long; it gets nil when events were lost and everything may have changed.
func newWatcher(changed func(names []string)) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch volumes: %w", err)
	}
	w := &watcher{
		file:    os.NewFile(uintptr(fd), "inotify"),
		changed: changed,
		names:   map[int32]map[string]bool{},
		done:    make(chan struct{}),
	}
	go w.run() // until close
	return w, nil
}

// add watches path, for changes to be told under name. Symbolic links are not followed.
func (w *watcher) add(name, path string, mask uint32) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("watch %q: %w", path, err)
	}
	var wd int
	var addErr error
	if err := raw.Control(func(fd uintptr) {
		wd, addErr = unix.InotifyAddWatch(int(fd), path, mask|unix.IN_DONT_FOLLOW|unix.IN_MASK_ADD)
	}); err != nil {
		return 0, fmt.Errorf("watch %q: %w", path, err)
	}
	if addErr != nil {
		return 0, fmt.Errorf("watch %q: %w", path, addErr)
	}
	id := int32(wd)
	if w.names[id] == nil {
		w.names[id] = map[string]bool{}
	}
	w.names[id][name] = true
	return id, nil
}

// remove stops telling of name.
func (w *watcher) remove(id int32, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.names[id], name)
	if len(w.names[id]) > 0 {
		return
	}
	delete(w.names, id)
	raw, err := w.file.SyscallConn()
	if err != nil {
		return // closed: the watches are gone with it
	}
	_ = raw.Control(func(fd uintptr) {
		// It fails if what was watched is gone, and the watch with it.
		_, _ = unix.InotifyRmWatch(int(fd), uint32(id))
	})
}

func (w *watcher) close() {
	w.file.Close()
	<-w.done
}

func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := w.file.Read(buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		if names, lost := w.parse(buf[:n]); lost {
			w.changed(nil)
		} else if len(names) > 0 {
			w.changed(names)
		}
	}
}

// parse returns the names that events concern, and whether there were too many of them.
func (w *watcher) parse(b []byte) (names []string, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := map[string]bool{}
	for len(b) >= unix.SizeofInotifyEvent {
		id := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(size, len(b)):]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			lost = true
		}
		for name := range w.names[id] {
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
		if mask&unix.IN_IGNORED != 0 {
			delete(w.names, id)
		}
	}
	return names, lost
}
