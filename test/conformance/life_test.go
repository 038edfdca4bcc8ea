package conformance

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

func testLife(t *testing.T, h *Hull) {
	s := h.pod(t)
	status := s.Status()
	if !status.Ready || len(status.IPs) == 0 || status.NetNS == "" || status.CgroupPath == "" {
		t.Errorf("status of the pod: %+v", status)
	}
	c := h.shell(t, "one", "echo out; echo err >&2; sleep 1; exit 3")
	live, err := s.NewContainer(limited(t), c)
	if err != nil {
		t.Fatal(err)
	}
	phase := func(want runtime.Phase) runtime.State {
		t.Helper()
		state, err := live.State(limited(t))
		if err != nil || state.Phase != want {
			t.Errorf("state: %+v %v, want %s", state, err, want)
		}
		return state
	}
	phase(runtime.Created)
	began := time.Now()
	if err := live.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	if at := phase(runtime.Running).StartedAt; at.Before(began.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("started at %s, between %s and now", at, began)
	}
	exit := await(t, live)
	if exit.Code != 3 || exit.OOMKilled || exit.Unknown || exit.At.Before(began.Add(-time.Second)) || exit.At.After(time.Now().Add(time.Second)) {
		t.Errorf("exit: %+v", exit)
	}
	if got := phase(runtime.Exited).Exit; got.Code != 3 {
		t.Errorf("exit in the state: %+v", got)
	}
	// The log is complete when Wait answers.
	if got := logged(t, c.LogPath); !strings.Contains(got, "stdout F out\n") || !strings.Contains(got, "stderr F err\n") {
		t.Errorf("log: %q", got)
	}
	for range 2 {
		if err := live.Remove(limited(t)); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Container(limited(t), c.ID); !errdefs.IsNotFound(err) {
		t.Errorf("a removed container: %v", err)
	}
	for range 2 {
		if err := s.Stop(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-s.Done():
	default:
		t.Error("a stopped sandbox is still ready")
	}
	if left, _ := h.Node.Network.List(); len(left) > 0 {
		t.Errorf("the address is not free after Stop: %v", left)
	}
	for range 2 {
		if err := s.Remove(limited(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func testExits(t *testing.T, h *Hull) {
	s := h.pod(t)
	for script, want := range map[string]int32{"true": 0, "exit 7": 7, "exit 255": 255} {
		if out, exit := h.run(t, s, h.shell(t, script, script)); exit.Code != want || exit.Unknown {
			t.Errorf("%s: %+v (%s)", script, exit, out)
		}
	}
	c := h.shell(t, "term", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.2; done")
	live := start(t, s, c)
	eventually(t, func() bool { return strings.Contains(logged(t, c.LogPath), "ready") })
	kill(t, live, unix.SIGTERM)
	if exit := await(t, live); exit.Code != 0 {
		t.Errorf("after SIGTERM with a handler: %+v", exit)
	}
	kill(t, live, unix.SIGKILL) // an exited one: no error
	live = start(t, s, h.shell(t, "kill", idle))
	kill(t, live, unix.SIGKILL)
	if exit := await(t, live); exit.Code != 137 {
		t.Errorf("after SIGKILL: %+v", exit)
	}
}

func testCannotStart(t *testing.T, h *Hull) {
	s := h.pod(t)
	for want, args := range map[string][]string{
		"/no/such/program": {"/no/such/program"},
		"ermission denied": {"/etc/passwd"},
	} {
		c := h.shell(t, "one", "")
		c.Args = args
		live, err := s.NewContainer(limited(t), c)
		if err == nil {
			err = live.Start(limited(t)) // some runtimes notice at start
			if err := live.Remove(limited(t)); err != nil {
				t.Error(err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
		if left, err := h.Driver.Containers(limited(t)); err != nil || len(left) > 0 {
			t.Errorf("%s: containers are left: %v %v", want, left, err)
		}
	}
	// The name is free again.
	c := h.shell(t, "one", "true")
	if _, exit := h.run(t, s, c); exit.Code != 0 {
		t.Errorf("exit: %+v", exit)
	}
}

func testStop(t *testing.T, h *Hull) {
	s := h.pod(t, func(c *sandbox.Config) { c.PID = runtime.NamespacePod })
	var all []runtime.Container
	for _, name := range []string{"created", "running", "shared", "exited"} {
		c := h.shell(t, name, idle)
		switch name {
		case "shared":
			c.PID = runtime.NamespacePod
		case "exited":
			c.Args = []string{"/bin/true"}
		}
		live, err := s.NewContainer(limited(t), c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, live)
		if name == "created" {
			continue
		}
		if err := live.Start(limited(t)); err != nil {
			t.Fatal(err)
		}
		if name == "exited" {
			await(t, live)
		}
	}
	began := time.Now()
	if err := s.Stop(limited(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("Stop took %s", took)
	}
	for i, live := range all[1:] {
		if exit := await(t, live); i < 2 && exit.Code != 137 && !exit.Unknown {
			t.Errorf("container %d: %+v", i+1, exit)
		}
		if err := live.Remove(limited(t)); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.NewContainer(limited(t), h.shell(t, "late", "true")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container in a stopped sandbox: %v", err)
	}
}

func testWrongState(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "one", idle)
	live, err := s.NewContainer(limited(t), c)
	if err != nil {
		t.Fatal(err)
	}
	run := runtime.ExecConfig{Args: []string{"true"}}
	if _, err := live.Exec(limited(t), run); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec before start: %v", err)
	}
	if err := live.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	if err := live.Start(limited(t)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	if _, err := s.NewContainer(limited(t), c); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second container of the name: %v", err)
	}
	kill(t, live, unix.SIGKILL)
	await(t, live)
	if _, err := live.Exec(limited(t), run); !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
		t.Errorf("exec after the end: %v", err)
	}
	if _, err := s.Container(limited(t), id(t, "none")); !errdefs.IsNotFound(err) {
		t.Errorf("a container that never was: %v", err)
	}
	for _, bad := range []string{"", "../x", "a/b"} {
		c := h.shell(t, "bad", "true")
		c.ID = bad
		if _, err := s.NewContainer(limited(t), c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", bad, err)
		}
	}
}

func testMany(t *testing.T, h *Hull) {
	s := h.pod(t)
	const n = 8
	failed := make(chan error, n)
	for i := range n {
		c := h.shell(t, string(rune('a'+i)), "echo done")
		go func() {
			live, err := s.NewContainer(limited(t), c)
			if err == nil {
				err = live.Start(limited(t))
			}
			if err == nil {
				_, err = live.Wait(limited(t))
			}
			if err == nil {
				err = live.Remove(limited(t))
			}
			failed <- err
		}()
	}
	for range n {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}
