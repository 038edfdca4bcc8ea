package volume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher tells Sets which of their volumes have changed on the host. All Sets of a process
// share one, since it is an inotify instance, of which a user has few
// (fs.inotify.max_user_instances, 128), and one goroutine; Close ends both. It is safe for
// concurrent use.
type Watcher struct {
	mu       sync.Mutex
	file     *os.File // nil until something is watched
	closed   bool
	subjects map[int32]map[subject]bool // by watch: one path has one watch, whoever wants it
	running  sync.WaitGroup
}

// subject is a volume, by its key, of the Set that has this follower.
type subject struct {
	follower *follower
	key      string
}

const (
	// watchDir are the events of the kubelet's atomic writer and of changed permissions.
	watchDir = unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_ONLYDIR
	// watchFile are those of a file that is written in place.
	watchFile = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB
)

// NewWatcher needs nothing of the kernel until there is something to watch.
func NewWatcher() *Watcher {
	return &Watcher{subjects: map[int32]map[subject]bool{}}
}

// open starts to watch. The lock is held.
func (w *Watcher) open() error {
	if w.closed {
		return fmt.Errorf("watch volumes: %w", os.ErrClosed)
	}
	if w.file != nil {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch volumes: %w", err)
	}
	w.file = os.NewFile(uintptr(fd), "inotify")
	w.running.Go(func() { w.run(w.file) }) // until Close
	return nil
}

// add watches path, for changes to be told of s. Symbolic links are not followed.
func (w *Watcher) add(s subject, path string, mask uint32) (int32, error) {
	target, err := openExactly(unix.AT_FDCWD, path, unix.O_PATH)
	if err != nil {
		return 0, fmt.Errorf("watch %q: %w", path, err)
	}
	defer unix.Close(target)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.open(); err != nil {
		return 0, err
	}
	var wd int
	var addErr error
	err = w.control(func(fd int) {
		wd, addErr = unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", target), mask|unix.IN_MASK_ADD)
	})
	if err := errors.Join(err, addErr); err != nil {
		return 0, fmt.Errorf("watch %q: %w", path, err)
	}
	id := int32(wd)
	if w.subjects[id] == nil {
		w.subjects[id] = map[subject]bool{}
	}
	w.subjects[id][s] = true
	return id, nil
}

func (w *Watcher) control(f func(fd int)) error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// remove stops telling of s.
func (w *Watcher) remove(id int32, s subject) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.subjects[id], s)
	if len(w.subjects[id]) > 0 {
		return
	}
	delete(w.subjects, id)
	// It fails if what was watched is gone, and the watch with it; or all watches are.
	_ = w.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(id)) })
}

// Close ends telling. Sets may still be used. It is idempotent.
func (w *Watcher) Close() error {
	w.mu.Lock()
	var err error
	if w.file != nil && !w.closed {
		err = w.file.Close()
	}
	w.closed = true
	w.mu.Unlock()
	w.running.Wait()
	return err
}

func (w *Watcher) run(file *os.File) {
	buf := make([]byte, 64<<10)
	for {
		n, err := file.Read(buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		w.tell(buf[:n])
	}
}

func (w *Watcher) tell(events []byte) {
	for s := range w.parse(events) {
		s.follower.note(s.key)
	}
}

// parse returns whom events concern: everybody if the kernel says that it has lost some.
func (w *Watcher) parse(b []byte) map[subject]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := map[subject]bool{}
	for len(b) >= unix.SizeofInotifyEvent {
		id := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		b = b[min(size, len(b)):]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, subjects := range w.subjects {
				maps.Copy(changed, subjects)
			}
		}
		maps.Copy(changed, w.subjects[id])
		if mask&unix.IN_IGNORED != 0 {
			delete(w.subjects, id)
		}
	}
	return changed
}
