package monitor

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// inherit makes this process what process 1 is on a node: it inherits and reaps the
// children of a monitor that died.
func inherit(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				reapOrphans()
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
}

// reapOrphans reaps containers, which os/exec does not know.
func reapOrphans() {
	self := os.Getpid()
	for _, pid := range candidates(cgroup{}) {
		st, err := readProc(pid)
		if err != nil || st.parent != self || st.state != 'Z' {
			continue
		}
		if name, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); strings.TrimSpace(string(name)) == "payload" {
			unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
	}
}

// numbered checks lines that begin with a growing number, and returns how many there
// are, how many numbers are missing and how many lines are torn.
func numbered(text string) (lines, missing, torn int) {
	next := 0
	for line := range strings.Lines(text) {
		lines++
		if len(line) != 100 {
			torn++
			continue
		}
		got, err := strconv.Atoi(line[:8])
		if err != nil {
			torn++
			continue
		}
		missing += got - next
		next = got + 1
	}
	return lines, missing, torn
}

func TestMonitorKilledDuringFlood(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		keeper := NewKeeper(n.client)
		defer keeper.Close()
		req := n.run([]string{"flood", "50", "1500"}, nil)
		if err := keeper.Keep(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(250 * time.Millisecond)
			n.kill()
			n.start()
			if err := keeper.Restore(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if exit := n.wait(req.ID); exit.Code != 9 || exit.Unknown {
			t.Errorf("exit = %+v, want 9", exit)
		}
		lines, missing, torn := numbered(n.text(req.LogPath, "stdout"))
		t.Logf("%d lines, %d missing, %d torn after 3 kills", lines, missing, torn)
		// A dead monitor takes along one read, and the beginning of a line.
		if limit := 3 * (readSize/100 + 2); missing > limit || torn > 3 {
			t.Errorf("%d lines are missing and %d torn, want at most %d and 3", missing, torn, limit)
		}
		if lines < 100_000 {
			t.Errorf("only %d lines", lines)
		}
	})
}

func TestExitWhileThereIsNoMonitor(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		for _, kept := range []bool{true, false} {
			n := newNode(t, rt)
			keeper := NewKeeper(n.client)
			defer keeper.Close()
			req := n.run([]string{"term", "4"}, nil)
			n.eventually("it is ready", func() bool {
				b, _ := os.ReadFile(req.LogPath)
				return strings.Contains(string(b), "ready")
			})
			if kept {
				if err := keeper.Keep(t.Context(), req.ID); err != nil {
					t.Fatal(err)
				}
			}
			st, _ := n.client.State(t.Context(), req.ID)
			n.kill()
			unix.Kill(st.Pid, unix.SIGTERM)
			n.eventually("it is gone", func() bool { _, err := readProc(st.Pid); return err != nil })
			n.start()
			if err := keeper.Restore(t.Context()); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			exit := n.wait(req.ID)
			if took := time.Since(began); took > adoptTime/2 {
				t.Errorf("the exit is said %s after a keeper that has no more to say", took)
			}
			if kept && (exit.Code != 4 || exit.Unknown) {
				t.Errorf("with a keeper: %+v, want 4", exit)
			}
			if !kept && (exit.Code != -1 || !exit.Unknown) {
				t.Errorf("without a keeper: %+v, want unknown", exit)
			}
		}
	})
}

func TestOutputWithoutMonitorIsKept(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		keeper := NewKeeper(n.client)
		defer keeper.Close()
		req := n.run([]string{"later", "500", "last words\n", "2"}, nil)
		if err := keeper.Keep(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		st, _ := n.client.State(t.Context(), req.ID)
		n.kill()
		n.eventually("it is gone", func() bool { _, err := readProc(st.Pid); return err != nil })
		n.start()
		if err := keeper.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if exit := n.wait(req.ID); exit.Code != 2 {
			t.Errorf("exit = %+v, want 2", exit)
		}
		if got := n.text(req.LogPath, "stdout"); got != "last words\n" {
			t.Errorf("log = %q", got)
		}
	})
}

func TestTerminalOutlivesMonitor(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		keeper := NewKeeper(n.client)
		defer keeper.Close()
		req := n.run([]string{"tty"}, func(s *specs.Spec, r *CreateRequest) { s.Process.Terminal, r.Terminal, r.Stdin = true, true, true })
		if err := keeper.Keep(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		n.kill()
		n.start()
		if err := keeper.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		var out safeBuffer
		if err := n.client.Attach(t.Context(), req.ID, runtime.Streams{Stdin: strings.NewReader("still here\n"), Stdout: &out, Terminal: true}); err != nil {
			t.Errorf("attach = %v", err)
		}
		if exit := n.wait(req.ID); exit.Code != 5 {
			t.Errorf("exit = %+v, want 5", exit)
		}
		if got := n.text(req.LogPath, "stdout"); !strings.Contains(got, `got "still here\n"`) {
			t.Errorf("log = %q", got)
		}
	})
}

func TestExecAndKillAfterAdoption(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, nil)
		n.kill()
		n.start()
		var out bytes.Buffer
		exit, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: payload("say", "hi", "", "1")}, runtime.Streams{Stdout: &out})
		if err != nil || exit.Code != 1 || out.String() != "hi" {
			t.Errorf("exec = %+v, %v, %q", exit, err, &out)
		}
		if err := n.client.Signal(t.Context(), req.ID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if exit := n.wait(req.ID); exit.Code != 137 || exit.Unknown {
			t.Errorf("exit = %+v, want 137", exit)
		}
	})
}
