package monitor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

func TestReexecLosesNothing(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		var brief []CreateRequest // some of them end during a re-exec
		for i := range 10 {
			brief = append(brief, n.run([]string{"later", strconv.Itoa(100 * (10 - i)), "", "9"}, nil))
		}
		flood := n.run([]string{"flood", "30", "1200"}, nil)
		tty := n.run([]string{"tty"}, func(s *specs.Spec, r *CreateRequest) { s.Process.Terminal, r.Terminal, r.Stdin = true, true, true })
		input := n.run([]string{"cat"}, func(_ *specs.Spec, r *CreateRequest) { r.Stdin, r.StdinOnce = true, true })
		for i := range 3 {
			time.Sleep(200 * time.Millisecond)
			if i == 1 {
				n.process.Process.Signal(unix.SIGHUP)
			} else if err := n.client.Reexec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(200 * time.Millisecond)
		info, err := n.client.Hello(t.Context())
		if err != nil || info.Pid != n.process.Process.Pid {
			t.Fatalf("hello = %+v, %v, want the same process", info, err)
		}
		if exit := n.wait(flood.ID); exit.Code != 9 {
			t.Errorf("exit = %+v, want 9", exit)
		}
		lines, missing, torn := numbered(n.text(flood.LogPath, "stdout"))
		if lines < 50_000 || missing != 0 || torn != 0 {
			t.Errorf("%d lines, %d missing, %d torn", lines, missing, torn)
		}
		var out safeBuffer
		if err := n.client.Attach(t.Context(), tty.ID, runtime.Streams{Stdin: strings.NewReader("here\n"), Stdout: &out, Terminal: true}); err != nil {
			t.Error(err)
		}
		if exit := n.wait(tty.ID); exit.Code != 5 {
			t.Errorf("terminal: exit = %+v, want 5", exit)
		}
		if err := n.client.Attach(t.Context(), input.ID, runtime.Streams{Stdin: strings.NewReader("words\n")}); err != nil {
			t.Error(err)
		}
		if exit := n.wait(input.ID); exit.Code != 0 || n.text(input.LogPath, "stdout") != "words\nend of input" {
			t.Errorf("input: exit = %+v, log %q", exit, n.text(input.LogPath, "stdout"))
		}
		for _, r := range brief {
			if exit := n.wait(r.ID); exit.Code != 9 || exit.Unknown {
				t.Errorf("brief: exit = %+v, want 9", exit)
			}
		}
		for _, r := range append(brief, flood, tty, input) {
			if err := n.client.Delete(t.Context(), r.ID); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(n.dir + "/state/handoff.json"); err == nil {
			t.Error("the inventory is left behind")
		}
		if got := descriptors(t, n.process.Process.Pid); got > 20 {
			t.Errorf("%d descriptors are open after all", got)
		}
	})
}

// A call that comes while a re-exec waits for others waits too: until that is put off, or
// for the next program.
func TestCallsDuringReexec(t *testing.T) {
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	for name, busy := range map[string]time.Duration{"put off": 3 * quietTime, "done": quietTime / 4} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, rt)
			idle := n.run([]string{"sleep", "3600000"}, nil)
			given, made := n.bundle([]string{"sleep", "3600000"}, nil), n.bundle([]string{"sleep", "3600000"}, nil)
			ended := make(chan error, 1)
			go func() {
				// Its time is over, which is an error, or its container is deleted at the end.
				_, err := n.client.Exec(t.Context(), idle.ID, ExecRequest{Process: payload("sleep", "3600000"), Timeout: busy}, runtime.Streams{})
				ended <- err
			}()
			n.eventually("the exec runs", func() bool {
				records, _ := load[execRecord](shelf{dir: filepath.Join(n.dir, "state")}, execSuffix)
				return len(records) == 1 && records[0].Process.Pid != 0
			})
			if err := n.client.Reexec(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
			began := time.Now()
			short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := n.client.Create(short, given); err == nil {
				t.Error("a call that should have waited has not")
			}
			if _, err := n.client.Create(t.Context(), made); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > quietTime+3*time.Second {
				t.Errorf("the call took %s", took)
			}
			if _, err := n.client.Start(t.Context(), made.ID); err != nil {
				t.Error(err)
			}
			if _, err := n.client.State(t.Context(), given.ID); !errdefs.IsNotFound(err) {
				t.Errorf("what nobody waited for any more: %v", err)
			}
			if err := n.client.Signal(t.Context(), idle.ID, unix.SIGKILL); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
}

// A re-exec that fails before anything was given up leaves calls as they were.
func TestReexecPutOff(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "m.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // it cannot be duplicated any more
	s := bareServer()
	if err := s.reexec(t.Context(), "/nowhere", l.(*net.UnixListener), nil); err == nil {
		t.Fatal("a re-exec without a socket")
	}
	if err := s.begin(); err != nil {
		t.Errorf("a call after that: %v", err)
	}
}

// Whoever asks for a re-exec is answered before it happens.
func TestReexecAnswers(t *testing.T) {
	n := newNode(t, oci.Runtime{})
	for i := range 30 {
		idle, err := n.client.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := n.client.Reexec(t.Context()); err != nil {
			t.Fatalf("re-exec %d: %v", i, err)
		}
		idle.SetDeadline(time.Now().Add(headerTime / 2))
		if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("re-exec %d: a connection of the old program: %v", i, err)
		}
		idle.Close()
	}
}
