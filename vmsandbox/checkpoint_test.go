package vmsandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// since are the calls of a world after the first n, without those of pings.
func (w *world) since(n int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls[n:])
}

// saver is a pod with a container that runs and one that has ended.
func saver(t *testing.T, w *world) (*pod, runtime.Container) {
	t.Helper()
	p := running(t, w, podConfig(t))
	c := started(t, p, containerConfig("a", "base"))
	ended := started(t, p, containerConfig("b"))
	if err := ended.Signal(t.Context(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := ended.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, c
}

// checkpointed is a saver and its checkpoint.
func checkpointed(t *testing.T, w *world) (*pod, runtime.Container, string) {
	t.Helper()
	p, c := saver(t, w)
	dir := t.TempDir()
	if err := p.Checkpoint(t.Context(), dir, []string{idOf(c)}); err != nil {
		t.Fatal(err)
	}
	return p, c, dir
}

func idOf(c runtime.Container) string { return c.(*container).id }

func restorationOf(t *testing.T, dir string, from ...string) sandbox.Restoration {
	r := sandbox.Restoration{Dir: dir, Config: podConfig(t)}
	for _, id := range from {
		config := containerConfig("a", "base")
		config.Resources = &runtime.Resources{CPUShares: 512}
		r.Containers = append(r.Containers, sandbox.RestoredContainer{From: id, Config: config})
	}
	return r
}

func TestCheckpointIsOneCutAndGoesOn(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	dir, before := t.TempDir(), len(w.since(0))
	if err := p.Checkpoint(t.Context(), dir, []string{idOf(c)}); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, call := range w.since(before) {
		if slices.Contains([]string{"freeze 1", "pause", "snapshot", "save rw0", "save rw1", "resume", "thaw 1"}, call) {
			order = append(order, call)
		}
	}
	if got := strings.Join(order, ", "); got != "freeze 1, pause, snapshot, save rw0, save rw1, resume, thaw 1" && got != "freeze 1, pause, snapshot, save rw1, save rw0, resume, thaw 1" {
		t.Errorf("calls were %s", got)
	}
	if s, err := c.State(t.Context()); err != nil || s.Phase != runtime.Running {
		t.Errorf("the original is %v, %v", s.Phase, err)
	}
	if s := p.snapshot(); len(s.Frozen) > 0 {
		t.Errorf("frozen: %v", s.Frozen)
	}
	if err := p.Checkpoint(t.Context(), dir, []string{idOf(c)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a directory that has a checkpoint: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 4 {
		t.Errorf("files are %v", left)
	}
}

func TestFailedCheckpointLeavesNothingAndGoesOn(t *testing.T) {
	for _, call := range []string{"savable", "freeze 1", "pause", "snapshot", "save rw0", "flat", "digest"} {
		w := newWorld(t)
		p, c := saver(t, w)
		dir, before := t.TempDir(), len(w.since(0))
		w.failing = call
		if err := p.Checkpoint(t.Context(), dir, []string{idOf(c)}); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v", call, err)
		}
		w.failing = ""
		calls := w.since(before)
		if slices.Contains(calls, "freeze 1") && !slices.Contains(calls, "thaw 1") || slices.Contains(calls, "pause") && !slices.Contains(calls, "resume") {
			t.Errorf("%s fails: the pod does not go on: %v", call, calls)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s fails: left %v, %v", call, left, err)
		}
		if !p.Status().Ready {
			t.Errorf("%s fails: the pod is not ready", call)
		}
	}
}

// A container that ends before it stands still is not saved as one that runs.
func TestContainerEndsBeforeItIsFrozen(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	if err := machineOf(w, p).monitor.Signal(t.Context(), idOf(c), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Checkpoint(t.Context(), t.TempDir(), []string{idOf(c)}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container that has ended: %v", err)
	}
	if w.has("pause") || !w.has("thaw 1") {
		t.Errorf("calls are %v", w.since(0))
	}
}

// A pod that cannot go on is not left standing still.
func TestPodThatCannotGoOnEnds(t *testing.T) {
	for _, call := range []string{"resume", "thaw 1"} {
		w := newWorld(t)
		p, c := saver(t, w)
		w.failing = call
		if err := p.Checkpoint(t.Context(), t.TempDir(), []string{idOf(c)}); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v", call, err)
		}
		w.failing = ""
		if p.Status().Ready {
			t.Errorf("%s fails: the pod is ready", call)
		}
	}
}

func TestCheckpointRefuses(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	other, err := p.NewContainer(t.Context(), containerConfig("a", "base"))
	if err != nil {
		t.Fatal(err)
	}
	for name, ids := range map[string][]string{"one that waits": {idOf(c), idOf(other)}, "none": nil, "unknown": {idOf(c), idOf(other), "x"}} {
		if err := p.Checkpoint(t.Context(), t.TempDir(), ids); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := other.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*podState){
		"earlier":  func(s *podState) { s.Platform = Platform{} },
		"mapped":   func(s *podState) { s.Mapped = map[string]mappedImage{"x": {}} },
		"grown":    func(s *podState) { s.Added = 1 << 27 },
		"no chain": func(s *podState) { s.Chains = nil },
	} {
		was := p.snapshot()
		if err := p.change(change); err != nil {
			t.Fatal(err)
		}
		if err := p.Checkpoint(t.Context(), t.TempDir(), []string{idOf(c)}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.change(func(s *podState) { *s = was }); err != nil {
			t.Fatal(err)
		}
	}
	if w.has("pause") {
		t.Error("the machine was paused")
	}
}

func TestRestoredContainerWaitsForItsStart(t *testing.T) {
	w := newWorld(t)
	p, c, dir := checkpointed(t, w)
	before := len(w.since(0))
	r := restorationOf(t, dir, idOf(c))
	made, err := p.driver.Restore(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := made.Container(t.Context(), r.Containers[0].Config.ID)
	if err != nil {
		t.Fatal(err)
	}
	wantPhase := func(want runtime.Phase) {
		t.Helper()
		if s, err := restored.State(t.Context()); err != nil || s.Phase != want {
			t.Errorf("it is %v, %v; want %s", s.Phase, err, want)
		}
	}
	wantPhase(runtime.Created)
	calls := w.since(before)
	for _, call := range []string{"load rw0", "identify host1", "connect eth0", "update", fmt.Sprintf("mirror /var/log/x of %s from 40", idOf(c))} {
		if !slices.Contains(calls, call) {
			t.Errorf("%q is not among %q", call, calls)
		}
	}
	if slices.Contains(calls, "thaw 1") {
		t.Error("it was thawed")
	}
	if n := len(machineOf(w, made.(*pod)).monitor.containers); n != 1 {
		t.Errorf("the guest has %d containers", n)
	}
	if err := restored.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantPhase(runtime.Running)
	if !w.has("thaw 1") {
		t.Error("it was not thawed")
	}
	if err := made.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is sent to a container that stands still must end it, not wait for it to go on.
func TestRestoredContainerIsKilledBeforeItsStart(t *testing.T) {
	w := newWorld(t)
	p, c, dir := checkpointed(t, w)
	r := restorationOf(t, dir, idOf(c))
	made, err := p.driver.Restore(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	restored, err := made.Container(t.Context(), r.Containers[0].Config.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := restored.Signal(t.Context(), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := restored.Wait(t.Context()); err != nil || exit.Code != 137 {
		t.Errorf("exit = %+v, %v", exit, err)
	}
	if err := made.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFailedRestoreLeavesNothing(t *testing.T) {
	w := newWorld(t)
	p, c, dir := checkpointed(t, w)
	left := w.left()
	for _, call := range []string{"platform", "load rw0", "restore", "identify host1", "sysctl", "put 4", "add network", "connect eth0", "update", fmt.Sprintf("mirror /var/log/x of %s from 40", idOf(c))} {
		w.failing = call
		if _, err := p.driver.Restore(t.Context(), restorationOf(t, dir, idOf(c))); !errors.Is(err, errBroken) {
			t.Errorf("%s fails: %v", call, err)
		}
		w.failing = ""
		now := w.left()
		slices.Sort(left)
		if slices.Sort(now); !slices.Equal(now, left) {
			t.Errorf("%s fails: left %v, was %v", call, now, left)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	good := t.TempDir()
	if err := p.Checkpoint(t.Context(), good, []string{idOf(c)}); err != nil {
		t.Fatal(err)
	}
	record := func(change func(*saved)) func(string) error {
		return func(dir string) error {
			s, err := readSaved(dir)
			if err != nil {
				return err
			}
			change(s)
			return writeJSON(filepath.Join(dir, savedRecord), s)
		}
	}
	for name, test := range map[string]struct {
		spoil func(dir string) error
		want  error
	}{
		"version":    {record(func(s *saved) { s.Version++ }), errdefs.ErrFailedPrecondition},
		"platform":   {record(func(s *saved) { s.Platform.CPU = "486" }), errdefs.ErrFailedPrecondition},
		"pid":        {record(func(s *saved) { s.Config.PID = runtime.NamespacePod }), errdefs.ErrFailedPrecondition},
		"sysctls":    {record(func(s *saved) { s.Config.Sysctls = map[string]string{"net.x": "1"} }), errdefs.ErrFailedPrecondition},
		"images":     {record(func(s *saved) { s.Images["ro0"].Files[0] = "sha256:0" }), errdefs.ErrFailedPrecondition},
		"slot":       {record(func(s *saved) { s.Images["../x"] = s.Images["ro0"] }), errdefs.ErrDataLoss},
		"disk":       {record(func(s *saved) { s.Writable = append(s.Writable, "../x") }), errdefs.ErrDataLoss},
		"name":       {record(func(s *saved) { s.Containers[0].Name = "../x" }), errdefs.ErrDataLoss},
		"same name":  {record(func(s *saved) { s.Others[0].Name = s.Containers[0].Name }), errdefs.ErrDataLoss},
		"other slot": {record(func(s *saved) { s.Others[0].Slot = "ro0" }), errdefs.ErrDataLoss},
		"log":        {record(func(s *saved) { s.Containers[0].Log = -1 }), errdefs.ErrDataLoss},
		"id":         {record(func(s *saved) { s.Containers[0].ID = "other" }), errdefs.ErrDataLoss},
		"none":       {record(func(s *saved) { s.Containers = nil }), errdefs.ErrDataLoss},
		"state":      {func(dir string) error { return os.Truncate(filepath.Join(dir, savedState), 3) }, errdefs.ErrDataLoss},
		"no state":   {func(dir string) error { return os.Remove(filepath.Join(dir, savedState)) }, errdefs.ErrDataLoss},
		"link": {func(dir string) error {
			state := filepath.Join(dir, savedState)
			return errors.Join(os.Rename(state, state+"x"), os.Symlink(state+"x", state))
		}, errdefs.ErrDataLoss},
		"text": {func(dir string) error { return os.WriteFile(filepath.Join(dir, savedRecord), []byte("{"), 0o600) }, errdefs.ErrDataLoss},
		"long": {func(dir string) error { return os.Truncate(filepath.Join(dir, savedRecord), maxSavedRecord+1) }, errdefs.ErrDataLoss},
	} {
		dir := filepath.Join(t.TempDir(), "c")
		if err := errors.Join(os.CopyFS(dir, os.DirFS(good)), test.spoil(dir)); err != nil {
			t.Fatal(err)
		}
		left := len(w.left())
		if _, err := p.driver.Restore(t.Context(), restorationOf(t, dir, idOf(c))); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if now := w.left(); len(now) != left {
			t.Errorf("%s: left %v", name, now)
		}
	}
	w.form = "other "
	if _, err := p.driver.Restore(t.Context(), restorationOf(t, good, idOf(c))); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("layers in another form: %v", err)
	}
}

// A daemon that ended while a pod was saved lets the next one set it going.
func TestNextDaemonThaws(t *testing.T) {
	w := newWorld(t)
	p, c := saver(t, w)
	if err := p.change(func(s *podState) { s.Frozen = []string{idOf(c)} }); err != nil {
		t.Fatal(err)
	}
	record := p.Record()
	if err := p.driver.Release(); err != nil {
		t.Fatal(err)
	}
	next, err := w.driver().Attach(t.Context(), record)
	if err != nil {
		t.Fatal(err)
	}
	if !w.has("thaw 1") {
		t.Errorf("calls = %v", w.since(0))
	}
	var s podState
	if err := json.Unmarshal(next.Record().Data, &s); err != nil || len(s.Frozen) > 0 {
		t.Errorf("frozen: %v, %v", s.Frozen, err)
	}
	if err := next.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}
