package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// fakeVM stands in for a virtual machine: a socket that takes one client at a time, and
// behind it a channel on which accept serves.
type fakeVM struct {
	t      *testing.T
	socket string
	l      net.Listener
	conns  atomic.Int64
}

func newMachine(t *testing.T, accept func(service string, c net.Conn)) *fakeVM {
	t.Helper()
	dir, err := os.MkdirTemp("", "mirror-") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &fakeVM{t: t, socket: filepath.Join(dir, "port")}
	if m.l, err = net.Listen("unix", m.socket); err != nil {
		t.Fatal(err)
	}
	m.l.(*net.UnixListener).SetUnlinkOnClose(false)
	inner, outer := socketPair(t)
	ctx, cancel := context.WithCancel(context.Background())
	served, relayed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(served)
		mux.Serve(ctx, inner, mux.Options{}, accept)
	}()
	go func() {
		defer close(relayed)
		m.relay(outer)
	}()
	t.Cleanup(func() {
		cancel()
		m.l.Close()
		inner.Close()
		outer.Close()
		<-served
		<-relayed
	})
	return m
}

// relay is QEMU: what one client leaves unread the next one gets.
func (m *fakeVM) relay(port net.Conn) {
	for {
		conn, err := m.l.Accept()
		if err != nil {
			return
		}
		m.conns.Add(1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(port, conn)
			port.SetReadDeadline(time.Unix(1, 0))
		}()
		io.Copy(conn, port)
		conn.Close()
		<-done
		port.SetReadDeadline(time.Time{})
	}
}

func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "port")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// offer serves a node's monitor on a channel.
func (n *node) offer(service string, c net.Conn) {
	if service != GuestService {
		mux.Refuse(c, errdefs.ErrNotFound)
		return
	}
	defer c.Close()
	monitor, err := n.client.dial(context.Background())
	if err != nil {
		return
	}
	go func() {
		defer monitor.Close()
		io.Copy(monitor, c)
	}()
	io.Copy(c, monitor)
}

// mirror begins to mirror a container of a guest into a file of this node.
func (n *node) mirror(m *fakeVM, id string) MirrorRequest {
	n.t.Helper()
	r := MirrorRequest{ID: id, Sandbox: "pod", Socket: m.socket, LogPath: filepath.Join(n.dir, id+".mirror.log")}
	for range 2 { // again is no error
		if err := n.client.Mirror(n.t.Context(), r); err != nil {
			n.t.Fatalf("mirror: %v", err)
		}
	}
	return r
}

func (n *node) flush(id string) error {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	return n.client.FlushLog(ctx, id)
}

// exact checks that lines are numbered without a gap and without a double.
func exact(t *testing.T, text string) int {
	t.Helper()
	lines := 0
	for line := range strings.Lines(text) {
		if n, err := strconv.Atoi(line[:min(8, len(line))]); err != nil || n != lines || len(line) != 100 {
			t.Errorf("line %d is %q", lines, line)
			return lines
		}
		lines++
	}
	return lines
}

func guestRuntime(t *testing.T) oci.Runtime {
	t.Helper()
	for _, name := range []string{"crun", "runc"} {
		if rt, err := oci.Find(name); err == nil {
			return rt
		}
	}
	t.Fatal("no OCI runtime: install crun or runc")
	return oci.Runtime{}
}

// Two containers of one guest, one connection; the host's monitor is killed again and
// again, and replaced in place: every line arrives once.
func TestMirrorOutlivesMonitors(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	vm := newMachine(t, guest.offer)
	var made []MirrorRequest
	for _, rate := range []string{"20", "3"} {
		req := guest.run([]string{"flood", rate, "3500"}, nil)
		made = append(made, host.mirror(vm, req.ID))
	}
	for i := range 8 {
		time.Sleep(time.Duration(150+37*i) * time.Millisecond)
		if i%3 == 2 {
			if err := host.client.Reexec(t.Context()); err != nil {
				t.Fatal(err)
			}
			host.eventually("the monitor answers", func() bool { _, err := host.client.Hello(t.Context()); return err == nil })
			continue
		}
		host.kill()
		host.start()
	}
	for _, r := range made {
		if exit := guest.wait(r.ID); exit.Code != 9 {
			t.Errorf("exit = %+v", exit)
		}
		if err := host.flush(r.ID); err != nil {
			t.Fatalf("flush: %v", err)
		}
		lines := exact(t, host.text(r.LogPath, "stdout"))
		if got, want := fileSize(t, r.LogPath), fileSize(t, filepath.Join(guest.dir, r.ID+".log")); got != want {
			t.Errorf("%d bytes, the guest has logged %d", got, want)
		}
		if lines < 50_000 {
			t.Errorf("only %d lines", lines)
		}
		t.Logf("%d lines over %d connections", lines, vm.conns.Load())
		host.eventually("the guest has forgotten what is safe", func() bool {
			var st unix.Stat_t
			return unix.Stat(filepath.Join(guest.dir, r.ID+".log"), &st) == nil && st.Blocks*512 <= 256<<10
		})
	}
	if n := vm.conns.Load(); n < 7 || n > 9 {
		t.Errorf("%d connections for 9 monitors", n)
	}
	entries, _ := host.client.List(t.Context())
	if len(entries) != 2 || entries[0].Kind != KindMirror || entries[0].State.Phase != runtime.Exited || entries[0].Sandbox != "pod" {
		t.Errorf("list = %+v", entries)
	}
	host.kill()
	host.start() // it still knows how it ended
	for _, r := range made {
		if err := host.flush(r.ID); err != nil {
			t.Errorf("flush after the end: %v", err)
		}
		for range 2 {
			if err := host.client.Delete(t.Context(), r.ID); err != nil {
				t.Error(err)
			}
		}
	}
	if left, _ := filepath.Glob(host.dir + "/state/*mirror*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := descriptors(t, host.process.Process.Pid); got > 20 {
		t.Errorf("%d descriptors are open after all", got)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// A monitor is killed while it makes a mirror, or removes one: the next one finishes the
// removal, and does not make the log again that was taken away.
func TestMirrorHalfThere(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	vm := newMachine(t, guest.offer)
	req := guest.run([]string{"flood", "1", "10"}, nil)
	r := host.mirror(vm, req.ID)
	if err := host.flush(r.ID); err != nil {
		t.Fatal(err)
	}
	host.kill()
	position := filepath.Join(host.dir, "state", r.ID+positionSuffix)
	if err := errors.Join(os.Remove(r.LogPath), os.Rename(position, filepath.Join(host.dir, "state", "half"+positionSuffix))); err != nil {
		t.Fatal(err)
	}
	host.start()
	if entries, err := host.client.List(t.Context()); err != nil || len(entries) > 0 {
		t.Errorf("list = %+v, %v", entries, err)
	}
	if left, _ := filepath.Glob(host.dir + "/state/*mirror*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Lstat(r.LogPath); !os.IsNotExist(err) {
		t.Errorf("the log is there again: %v", err)
	}
}

// Rotation: the file is renamed under the mirror, which is killed before it hears of it
// or is told to open the path anew.
func TestMirrorRotation(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	vm := newMachine(t, guest.offer)
	req := guest.run([]string{"flood", "10", "2500"}, nil)
	r := host.mirror(vm, req.ID)
	var files []string
	for i := range 5 {
		time.Sleep(250 * time.Millisecond)
		rotated := fmt.Sprintf("%s.%d", r.LogPath, i)
		if err := os.Rename(r.LogPath, rotated); err != nil {
			t.Fatal(err)
		}
		files = append(files, rotated)
		if i%2 == 1 {
			host.kill()
			host.start()
		}
		if err := host.client.ReopenLog(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := host.flush(r.ID); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range append(files, r.LogPath) {
		all.WriteString(host.text(f, "stdout"))
	}
	if lines := exact(t, all.String()); lines < 50_000 {
		t.Errorf("only %d lines", lines)
	}
	if err := os.Remove(r.LogPath); err != nil {
		t.Fatal(err)
	}
	if err := host.client.ReopenLog(t.Context(), r.ID); err != nil {
		t.Errorf("reopen after the end: %v", err)
	}
	if _, err := os.Stat(r.LogPath); err != nil {
		t.Errorf("reopen after the end makes no file: %v", err)
	}
}

func TestMirrorOfMachineThatDies(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	vm := newMachine(t, guest.offer)
	req := guest.run([]string{"say", "first\n", "", "0"}, nil)
	done := host.mirror(vm, req.ID)
	if err := host.flush(done.ID); err != nil {
		t.Fatal(err)
	}
	req = guest.run([]string{"flood", "1", "60000"}, nil)
	r := host.mirror(vm, req.ID)
	host.logged(r.LogPath, "00000000 ")
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := host.client.FlushLog(short, r.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush of a container that runs: %v", err)
	}
	vm.l.Close()
	began := time.Now()
	cut := make(chan error, 1)
	go func() { cut <- host.flush(r.ID) }()
	host.kill() // it hangs up, and there is no other end any more
	host.start()
	<-cut
	if err := host.flush(r.ID); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("flush: %v, want unavailable", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v to find out", took)
	}
	if err := host.flush(done.ID); err != nil {
		t.Errorf("the one that was complete: %v", err)
	}
	if exact(t, host.text(r.LogPath, "stdout")) == 0 {
		t.Error("nothing is left of the log")
	}
	if err := host.flush("unknown"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("flush of what is not mirrored: %v", err)
	}
}

// The log of a container that the guest knows no more is over; one that was never there
// is too.
func TestMirrorOfUnknownContainer(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	vm := newMachine(t, guest.offer)
	r := host.mirror(vm, "there-is-none")
	if err := host.flush(r.ID); !errors.Is(err, errdefs.ErrUnavailable) || !strings.Contains(err.Error(), "find container") {
		t.Errorf("flush: %v", err)
	}
	other := r
	other.LogPath += ".other"
	if err := host.client.Mirror(t.Context(), other); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("another mirror of that id: %v", err)
	}
	other.ID, other.Socket = "b", "relative"
	if err := host.client.Mirror(t.Context(), other); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a socket that is no path: %v", err)
	}
}
