package procstat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// child runs this test's program as one that has things open, until the test ends.
func child(t *testing.T, role string) int {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "PROCSTAT_CHILD="+role)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, "ready") {
		t.Fatalf("%q, %v", line, err)
	}
	return c.Process.Pid
}

// TestMain is, in a process of child's, what that runs.
func TestMain(m *testing.M) {
	role := os.Getenv("PROCSTAT_CHILD")
	if role == "" {
		os.Exit(m.Run())
	}
	listeners, err := hold(role)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, l := range listeners { // until now
		l.Close()
	}
}

// hold opens what a role has open: files until the process ends, and listeners.
func hold(role string) (listeners []net.Listener, err error) {
	switch role {
	case "many":
		for range 3000 {
			if _, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0); err != nil {
				return nil, err
			}
		}
	case "open":
		for range 20 {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return nil, err
			}
		}
		for range 5 {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			listeners = append(listeners, l)
		}
	}
	return listeners, nil
}

func TestRead(t *testing.T) {
	idle, busy := child(t, "idle"), child(t, "open")
	base, err := Read(t.Context(), []int{idle})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(t.Context(), []int{busy, 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	// Go's network poller has two descriptors of its own.
	if files := s.FileDescriptors - base.FileDescriptors; s.Processes != 1 || files < 25 || files > 30 || s.Sockets-base.Sockets != 5 {
		t.Errorf("idle %+v, with 20 files and 5 sockets %+v", base, s)
	}
	if tasks := s.Sleeping + s.Running + s.Uninterruptible; tasks < 2 || s.Stopped != 0 {
		t.Errorf("tasks of a Go program: %+v", s)
	}
	both, err := Read(t.Context(), []int{idle, busy})
	if err != nil || both.Processes != 2 || both.Sockets != base.Sockets+s.Sockets {
		t.Errorf("both: %+v, %v", both, err)
	}
	if s.MaxOpenFiles == nil || *s.MaxOpenFiles == 0 {
		t.Errorf("limit of open files: %v", s.MaxOpenFiles)
	}
}

func TestReadNothing(t *testing.T) {
	s, err := Read(t.Context(), []int{1 << 30})
	if err != nil || s != (runtime.ProcessStat{}) {
		t.Errorf("a process that is gone: %+v, %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, []int{os.Getpid()}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

// asked is a context that ends when it has been looked at so often.
type asked struct {
	context.Context
	left int
}

func (a *asked) Err() error {
	if a.left--; a.left < 0 {
		return context.Canceled
	}
	return nil
}

// Who gives up is not kept by a process that has very much open.
func TestReadGivenUp(t *testing.T) {
	many := child(t, "many")
	s, err := Read(&asked{t.Context(), 2}, []int{many})
	if !errors.Is(err, context.Canceled) || s.FileDescriptors == 0 || s.FileDescriptors > 2*batch {
		t.Errorf("given up in the middle of 3000 descriptors: %+v, %v", s, err)
	}
}

// Processes may inherit a million descriptors each: there is an end of counting them.
func TestReadIsBounded(t *testing.T) {
	many := child(t, "many")
	for times, ok := range map[int]bool{1: true, 3: true, 4: false, 100: false} {
		s, err := read(t.Context(), slices.Repeat([]int{many}, times), 10_000)
		if errdefs.IsResourceExhausted(err) == ok || s.FileDescriptors > 10_000 || ok && s.FileDescriptors < uint64(3000*times) {
			t.Errorf("%d processes with 3000 descriptors: %+v, %v", times, s, err)
		}
	}
}
