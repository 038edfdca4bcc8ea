package monitor

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

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
