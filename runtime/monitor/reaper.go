package monitor

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper waits for every child of the process: those it started, those that an OCI
// runtime left to it as the subreaper, and strangers that merely lost their parent.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan status
	// unclaimed are children that ended before anyone knew their process id: an init
	// may be faster than its pid file.
	unclaimed map[int]status

	signals chan os.Signal
	stopped chan struct{}
}

// status is how a child ended.
type status struct {
	code int32 // 128+n for signal n
	at   time.Time
}

// unclaimedFor is how long the end of an unknown child is remembered.
const unclaimedFor = time.Minute

// newReaper returns a reaper that leaves every end to the kernel until run is called. What
// is claimed before that cannot be missed.
func newReaper() *reaper {
	r := &reaper{
		waiting:   make(map[int]chan status),
		unclaimed: make(map[int]status),
		signals:   make(chan os.Signal, 1),
		stopped:   make(chan struct{}),
	}
	signal.Notify(r.signals, unix.SIGCHLD)
	return r
}

func (r *reaper) stop() {
	signal.Stop(r.signals)
	close(r.signals)
	<-r.stopped
}

// run reaps until stop is called.
func (r *reaper) run() {
	defer close(r.stopped)
	r.reap() // what ended before we listened
	for range r.signals {
		r.reap()
	}
}

// reap holds the lock from wait4 on, so that spawn and claim see a child either in the
// kernel or in one of the maps.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG|unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		// The time is that of each child: one that was started and ended while this loop was
		// busy with others would look older than its own start, and claim would drop it.
		r.ended(pid, status{code: codeOf(ws), at: time.Now()})
	}
	for pid, s := range r.unclaimed {
		if time.Since(s.at) > unclaimedFor {
			delete(r.unclaimed, pid)
		}
	}
}

func (r *reaper) ended(pid int, s status) {
	if ch, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		ch <- s // has room for one
		return
	}
	r.unclaimed[pid] = s
}

func codeOf(ws unix.WaitStatus) int32 {
	if ws.Signaled() {
		return 128 + int32(ws.Signal())
	}
	return int32(ws.ExitStatus())
}

// spawn executes a file from the calling thread. The channel delivers its end.
func (r *reaper) spawn(file string, argv []string, attr *syscall.ProcAttr) (int, <-chan status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(file, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	delete(r.unclaimed, pid)
	ch := make(chan status, 1)
	r.waiting[pid] = ch
	return pid, ch, nil
}

// claim returns a channel that delivers the end of a child that somebody else started
// for us, not before since: an older end of that pid belonged to another process.
func (r *reaper) claim(pid int, since time.Time) <-chan status {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := make(chan status, 1)
	if s, ok := r.unclaimed[pid]; ok {
		delete(r.unclaimed, pid)
		if !s.at.Before(since) {
			ch <- s
			return ch
		}
	}
	r.waiting[pid] = ch
	return ch
}
