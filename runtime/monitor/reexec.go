package monitor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// handoffEnv names the variable that tells a program that replaced its predecessor in
// the same process where the inventory lies.
const handoffEnv = "CRICKET_MONITOR_HANDOFF"

// handoff is the inventory: descriptors by number, and output that has been read.
type handoff struct {
	Listener   int                    `json:"listener"`
	Lock       int                    `json:"lock"`
	Containers map[string]handoffItem `json:"containers"`
}

type handoffItem struct {
	Stdin   int           `json:"stdin,omitempty"`
	Console int           `json:"console,omitempty"`
	Outputs []handoffPump `json:"outputs,omitempty"`
}

// handoffPump is an output stream with the line that it has begun.
type handoffPump struct {
	Name string `json:"name"`
	FD   int    `json:"fd"`
	Tail []byte `json:"tail,omitempty"`
}

// quietTime bounds how long a re-exec waits for calls that cannot be interrupted.
const quietTime = 10 * time.Second

// letIn returns when no re-exec is under way. Until then a call stays unread: if the next
// program comes, the client learns from the kernel that nothing was done, and asks that.
// False if nobody waits for the call any more. It must not be made then: a client that has
// given up on it takes back what it may have made, and that may be too early.
func (s *Server) letIn(ctx context.Context, conn net.Conn) bool {
	s.mu.Lock()
	putOff := s.frozen
	s.mu.Unlock()
	if putOff == nil {
		return true
	}
	select {
	case <-putOff:
		return !hungUp(conn)
	case <-ctx.Done():
		return false
	}
}

// begin counts a call that must not be cut off by a re-exec.
func (s *Server) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil { // since the call was let in
		return fmt.Errorf("serve call during an upgrade: %w", errdefs.ErrUnavailable)
	}
	s.busy++
	return nil
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

// interruptible calls lose nothing when their connection breaks.
func interruptible(op string) bool {
	return slices.Contains([]string{"hello", "list", "state", "wait", "attach", "log", "flush"}, op)
}

// freeze lets no call in and waits for those under way. ErrFailedPrecondition if
// they take too long; then everything goes on as before.
func (s *Server) freeze(ctx context.Context) error {
	s.mu.Lock()
	s.frozen = make(chan struct{})
	s.mu.Unlock()
	tick := time.NewTicker(10 * time.Millisecond) // rare, and short
	defer tick.Stop()
	deadline := time.Now().Add(quietTime)
	for {
		s.mu.Lock()
		busy := s.busy
		s.mu.Unlock()
		if busy == 0 {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			s.mu.Lock()
			close(s.frozen)
			s.frozen = nil
			s.mu.Unlock()
			return fmt.Errorf("re-exec while %d calls are under way: %w", busy, errdefs.ErrFailedPrecondition)
		}
		<-tick.C
	}
}

// pack stops everything that reads and lists what the next program gets. There is no
// way back from it but through that program.
func (s *Server) pack() map[string]handoffItem {
	s.reaper.stop()
	items := make(map[string]handoffItem)
	for id, c := range s.containers {
		// An end that has been reaped already must be settled, for nobody will know it.
		if _, err := readProc(c.rec.Init.Pid); err != nil && c.running() {
			select {
			case <-c.exited:
			case <-time.After(quietTime):
			}
		}
		if c.running() {
			items[id] = c.pack()
		}
	}
	for _, p := range s.children {
		p.pack()
	}
	for _, m := range s.mirrors {
		m.pack() // the next program goes on from the position
	}
	return items
}

func (c *container) pack() handoffItem {
	c.mu.Lock()
	defer c.mu.Unlock()
	item := handoffItem{Stdin: keepOpen(c.stdin), Console: keepOpen(c.console)}
	for _, p := range c.pumps {
		if p.halt() {
			item.Outputs = append(item.Outputs, handoffPump{Name: p.name, FD: keepOpen(p.src), Tail: p.tail()})
		}
	}
	return item
}

// keepOpen lets a descriptor survive the re-exec and returns it, or 0.
func keepOpen(f *os.File) int {
	if f == nil {
		return 0
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	number := 0
	raw.Control(func(fd uintptr) {
		if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err == nil {
			number = int(fd)
		}
	})
	return number
}

// reopened takes a descriptor back.
func reopened(fd int, name string) *os.File {
	if fd <= 0 {
		return nil
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name)
}

// reexec replaces the program of this process by the one at path, or by itself if that
// cannot be executed. It returns only if nothing has been given up yet.
func (s *Server) reexec(ctx context.Context, path string, l *net.UnixListener, lock *os.File) error {
	socket, err := l.File() // a duplicate; the original closes with this program
	if err != nil {
		return fmt.Errorf("keep socket: %w", err)
	}
	defer socket.Close()
	if err := s.freeze(ctx); err != nil { // the last that can fail: nothing thaws it again
		return err
	}
	h := handoff{Containers: s.pack(), Listener: keepOpen(socket), Lock: keepOpen(lock)}
	file := filepath.Join(s.shelf.dir, "handoff.json")
	b, err := json.Marshal(h)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil { // without the inventory the next program adopts as after a crash
		s.log.Error("write handoff", "error", err)
	}
	env := append(os.Environ(), handoffEnv+"="+file)
	err = unix.Exec(path, os.Args, env)
	s.log.Error("execute new monitor", "path", path, "error", err)
	err = unix.Exec("/proc/self/exe", os.Args, env)
	panic(fmt.Sprintf("execute monitor again: %v", err)) // children reparent, the next start adopts
}

// receiveHandoff returns the inventory of a predecessor in this process, or nil.
func receiveHandoff() *handoff {
	file, ok := os.LookupEnv(handoffEnv)
	if !ok {
		return nil
	}
	_ = os.Unsetenv(handoffEnv) // it fails on impossible names only
	defer os.Remove(file)
	var h handoff
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, &h) != nil {
		closeInherited()
		return nil
	}
	return &h
}

// closeInherited closes what came without an inventory, or its FIFOs and terminals
// would stay open for ever.
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.HasSuffix(target, ".fifo") || strings.HasPrefix(target, "/dev/pt") || strings.HasPrefix(target, "socket:") {
			unix.Close(fd)
		}
	}
}

// unpack takes a container's streams from the inventory.
func (c *container) unpack(item handoffItem) error {
	c.stdin = reopened(item.Stdin, "input")
	c.console = reopened(item.Console, "terminal")
	for _, o := range item.Outputs {
		kind, src := frameStdout, c.console
		if o.FD != item.Console { // never two files for one number: each would close it
			src = reopened(o.FD, o.Name)
		}
		if o.Name == "stderr" {
			kind = frameStderr
		}
		if src == nil {
			continue
		}
		if err := c.resumeOutput(src, o.Name, kind, o.Tail); err != nil {
			return err
		}
	}
	return nil
}
