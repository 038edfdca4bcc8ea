package monitor

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

func TestRunLogsThenExits(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"say", "out\nunfinished", "err\n", "3"}, nil)
		exit := n.wait(req.ID)
		if exit.Code != 3 || exit.Unknown || exit.OOMKilled || exit.At.IsZero() {
			t.Errorf("exit = %+v, want code 3", exit)
		}
		if got := n.text(req.LogPath, "stdout"); got != "out\nunfinished" {
			t.Errorf("stdout log = %q", got)
		}
		if got := n.text(req.LogPath, "stderr"); got != "err\n" {
			t.Errorf("stderr log = %q", got)
		}
		st, err := n.client.State(t.Context(), req.ID)
		if err != nil || st.Phase != runtime.Exited || st.StartedAt.IsZero() {
			t.Errorf("state = %+v, %v", st, err)
		}
		for range 2 {
			if err := n.client.Delete(t.Context(), req.ID); err != nil {
				t.Errorf("delete: %v", err)
			}
		}
		if _, err := n.client.State(t.Context(), req.ID); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("state after delete: %v, want not found", err)
		}
	})
}

func TestAllOutputIsLoggedBeforeExit(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"lines", "200000"}, nil)
		if exit := n.wait(req.ID); exit.Code != 7 {
			t.Errorf("exit = %+v", exit)
		}
		if got := strings.Count(n.text(req.LogPath, "stdout"), "\n"); got != 200000 {
			t.Errorf("%d lines in the log, want 200000", got)
		}
	})
}

func TestSignals(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"term", "4"}, nil)
		n.eventually("it is ready", func() bool {
			b, _ := os.ReadFile(req.LogPath)
			return strings.Contains(string(b), "ready")
		})
		if err := n.client.Signal(t.Context(), req.ID, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if exit := n.wait(req.ID); exit.Code != 4 {
			t.Errorf("after SIGTERM: %+v, want 4", exit)
		}
		req = n.run([]string{"family"}, nil)
		if err := n.client.Signal(t.Context(), req.ID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if exit := n.wait(req.ID); exit.Code != 137 || exit.OOMKilled {
			t.Errorf("after SIGKILL: %+v, want 137", exit)
		}
		if err := n.client.Signal(t.Context(), req.ID, unix.SIGTERM); err != nil {
			t.Errorf("signal to an exited container: %v", err)
		}
	})
}

func TestOOM(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		limit := int64(32 << 20)
		req := n.run([]string{"eat"}, func(s *specs.Spec, _ *CreateRequest) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		})
		if exit := n.wait(req.ID); exit.Code != 137 || !exit.OOMKilled {
			t.Errorf("exit = %+v, want 137 by the OOM killer", exit)
		}
	})
}

func TestCreateQuotesRuntime(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.bundle([]string{"exit", "0"}, func(s *specs.Spec, _ *CreateRequest) { s.Process.Args[0] = "/no-such-program" })
		_, err := n.client.Create(t.Context(), req)
		if err == nil {
			_, err = n.client.Start(t.Context(), req.ID)
		}
		if err == nil || !strings.Contains(err.Error(), "no-such-program") {
			t.Errorf("error = %v, want the runtime's own words", err)
		}
	})
}

func TestWrongStates(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.create([]string{"sleep", "100"}, nil)
		if _, err := n.client.Create(t.Context(), req); !errors.Is(err, errdefs.ErrAlreadyExists) {
			t.Errorf("second create: %v", err)
		}
		_, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: specs.Process{Args: []string{"/payload"}}}, runtime.Streams{})
		if !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("exec before start: %v", err)
		}
		if _, err := n.client.Start(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.Start(t.Context(), req.ID); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("second start: %v", err)
		}
		n.wait(req.ID)
		if err := n.client.Signal(t.Context(), "nobody", unix.SIGTERM); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("signal to nobody: %v", err)
		}
	})
}

func TestGrandchildHoldsOutput(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"leave"}, func(s *specs.Spec, _ *CreateRequest) {
			s.Linux.Namespaces = s.Linux.Namespaces[1:] // the host's PID namespace: the child survives
		})
		began := time.Now()
		n.wait(req.ID)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the exit was reported after %v", took)
		}
		if got := n.text(req.LogPath, "stdout"); got != "left" {
			t.Errorf("log = %q", got)
		}
	})
}
