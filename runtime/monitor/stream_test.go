package monitor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// safeBuffer is a buffer that a test reads while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func payload(args ...string) specs.Process {
	return specs.Process{Args: append([]string{"/payload"}, args...), Cwd: "/", Env: []string{"GOMAXPROCS=1"}}
}

func TestExecStreamsAndCode(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, nil)
		var out, errs bytes.Buffer
		exit, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: payload("say", "to out", "to err", "6")}, runtime.Streams{Stdout: &out, Stderr: &errs})
		if err != nil || exit.Code != 6 || out.String() != "to out" || errs.String() != "to err" {
			t.Errorf("exec = %+v, %v, out %q, err %q", exit, err, &out, &errs)
		}
		out.Reset()
		in := strings.Repeat("0123456789", 100_000)
		exit, err = n.client.Exec(t.Context(), req.ID, ExecRequest{Process: payload("cat")}, runtime.Streams{Stdin: strings.NewReader(in), Stdout: &out})
		if err != nil || exit.Code != 0 || out.String() != in+"end of input" {
			t.Errorf("cat = %+v, %v, %d bytes", exit, err, out.Len())
		}
		out.Reset()
		if _, err = n.client.Exec(t.Context(), req.ID, ExecRequest{Process: payload("lines", "300000")}, runtime.Streams{Stdout: &out}); err != nil {
			t.Error(err)
		}
		if got := strings.Count(out.String(), "\n"); got != 300000 {
			t.Errorf("%d lines, want 300000", got)
		}
		if _, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: specs.Process{Args: []string{"/none"}, Cwd: "/"}}, runtime.Streams{}); err == nil || !strings.Contains(err.Error(), "none") {
			t.Errorf("exec of nothing: %v", err)
		}
	})
}

// inside counts the processes of a container.
func inside(t *testing.T, c *Client, id string) int {
	t.Helper()
	st, err := c.State(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	alive := 0
	for _, pid := range cgroupOf(st.Pid).pids() {
		if p, err := readProc(pid); err == nil && p.state != 'Z' {
			alive++
		}
	}
	return alive
}

func TestExecTimeoutKillsTree(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, nil)
		var out bytes.Buffer
		exit, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: payload("family"), Timeout: 500 * time.Millisecond}, runtime.Streams{Stdout: &out})
		if err != nil || !exit.TimedOut || exit.Code != 137 || out.String() != "family ready\n" {
			t.Errorf("exec = %+v, %v, %q", exit, err, &out)
		}
		if got := inside(t, n.client, req.ID); got != 1 {
			t.Errorf("%d processes are left, want init alone", got)
		}
	})
}

func TestExecOutlivesClient(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var out safeBuffer
		done := make(chan error, 1)
		go func() {
			_, err := n.client.Exec(ctx, req.ID, ExecRequest{Process: payload("family"), Timeout: 1500 * time.Millisecond}, runtime.Streams{Stdout: &out})
			done <- err
		}()
		n.eventually("the family is there", func() bool {
			return strings.Contains(out.String(), "ready") && inside(t, n.client, req.ID) == 9
		})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("exec = %v", err)
		}
		if got := inside(t, n.client, req.ID); got != 9 {
			t.Errorf("%d processes after the client left, want 9", got)
		}
		n.eventually("the timeout has struck all the same", func() bool { return inside(t, n.client, req.ID) == 1 })
	})
}

func TestTerminal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.create([]string{"tty"}, func(s *specs.Spec, r *CreateRequest) { s.Process.Terminal, r.Terminal, r.Stdin = true, true, true })
		in, typed := io.Pipe()
		var out safeBuffer
		sizes := make(chan runtime.Size, 1)
		sizes <- runtime.Size{Width: 100, Height: 40}
		done := make(chan error, 1)
		go func() {
			done <- n.client.Attach(t.Context(), req.ID, runtime.Streams{Stdin: in, Stdout: &out, Terminal: true, Resize: sizes})
		}()
		if _, err := n.client.Start(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		n.eventually("the terminal speaks", func() bool { return strings.Contains(n.text(req.LogPath, "stdout"), "tty ready") })
		io.WriteString(typed, "hello\n")
		if exit := n.wait(req.ID); exit.Code != 5 {
			t.Errorf("exit = %+v", exit)
		}
		if err := <-done; err != nil {
			t.Errorf("attach = %v", err)
		}
		if got := out.String(); !strings.Contains(got, `got "hello\n"`) {
			t.Errorf("attached saw %q", got)
		}
		if got := n.text(req.LogPath, "stdout"); !strings.Contains(got, `got "hello\n"`) {
			t.Errorf("log = %q", got)
		}
		typed.Close()
	})
}

func TestExecTerminal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, nil)
		p := payload("tty")
		p.Terminal = true
		var out safeBuffer
		exit, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: p}, runtime.Streams{Stdin: strings.NewReader("typed\n"), Stdout: &out, Terminal: true})
		if err != nil || exit.Code != 5 || !strings.Contains(out.String(), `got "typed\n"`) {
			t.Errorf("exec = %+v, %v, %q", exit, err, out.String())
		}
	})
}

func TestStdinOnceEnds(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		keeper := NewKeeper(n.client)
		defer keeper.Close()
		req := n.run([]string{"cat"}, func(_ *specs.Spec, r *CreateRequest) { r.Stdin, r.StdinOnce = true, true })
		if err := keeper.Keep(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		var out safeBuffer
		if err := n.client.Attach(t.Context(), req.ID, runtime.Streams{Stdin: strings.NewReader("words\n"), Stdout: &out}); err != nil {
			t.Errorf("attach = %v", err)
		}
		if exit := n.wait(req.ID); exit.Code != 0 || out.String() != "words\nend of input" {
			t.Errorf("exit = %+v, attached saw %q", exit, out.String())
		}
	})
}

func TestStdinStaysOpen(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"cat"}, func(_ *specs.Spec, r *CreateRequest) { r.Stdin = true })
		for i := range 2 {
			if err := n.client.Attach(t.Context(), req.ID, runtime.Streams{Stdin: strings.NewReader("word " + strconv.Itoa(i) + "\n")}); err != nil {
				t.Errorf("attach = %v", err)
			}
		}
		n.eventually("both words are in the log", func() bool { return n.text(req.LogPath, "stdout") == "word 0\nword 1\n" })
		if err := n.client.Signal(t.Context(), req.ID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.wait(req.ID)
	})
}

func TestReopenLogLosesNothing(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"flood", "20", "700"}, nil)
		for i := range 5 {
			time.Sleep(100 * time.Millisecond)
			if err := os.Rename(req.LogPath, req.LogPath+"."+strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
			if err := n.client.ReopenLog(t.Context(), req.ID); err != nil {
				t.Fatal(err)
			}
		}
		n.wait(req.ID)
		files, _ := filepath.Glob(req.LogPath + ".*")
		var all strings.Builder
		for _, f := range append(files, req.LogPath) {
			all.WriteString(n.text(f, "stdout"))
		}
		next := 0
		for line := range strings.Lines(all.String()) {
			if got, _ := strconv.Atoi(line[:8]); got != next {
				t.Fatalf("line %d where %d should be", got, next)
			}
			next++
		}
		if next < 1000 {
			t.Errorf("only %d lines", next)
		}
	})
}
