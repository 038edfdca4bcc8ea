package monitor

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

// zombie starts a process and returns when it has ended with exit code 9.
func zombie(t *testing.T) Created {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 9"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		st, err := readProc(pid)
		if err != nil {
			t.Fatal(err)
		}
		if st.dead() {
			return Created{Pid: pid, StartTime: st.start}
		}
	}
	t.Fatal("the process does not end")
	return Created{}
}

// TestEndBeforeAdoption: what ended while one program of a monitor replaced the other is
// a zombie when that begins. Its exit code is told.
func TestEndBeforeAdoption(t *testing.T) {
	if !alone(t) {
		return
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	state := shelf{dir: t.TempDir()}
	save := func(id, suffix string, v any) {
		if err := state.save(id, suffix, v); err != nil {
			t.Fatal(err)
		}
	}
	const each = 20
	for i := range each {
		containerID, childID, holdID := fmt.Sprint("container", i), fmt.Sprint("child", i), fmt.Sprint("hold", i)
		save(containerID, recordSuffix, record{
			Request: CreateRequest{ID: containerID, Bundle: state.dir, Terminal: true}, life: life{Boot: boot, Phase: runtime.Running, Init: zombie(t)}})
		save(childID, childSuffix, childRecord{Request: SpawnRequest{ID: childID}, life: life{Boot: boot, Phase: runtime.Running, Init: zombie(t)}})
		save(holdID, holdSuffix, hold{ID: holdID, Boot: boot, Init: zombie(t)})
	}
	s, err := NewServer(Options{State: state.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.reaper.stop()
	for i := range each {
		exit, err := s.containers[fmt.Sprint("container", i)].wait(t.Context())
		if err != nil || exit.Code != 9 || exit.Unknown {
			t.Errorf("container %d: %+v, %v, want 9", i, exit, err)
		}
		exit, err = s.children[fmt.Sprint("child", i)].wait(t.Context())
		if err != nil || exit.Code != 9 || exit.Unknown {
			t.Errorf("child %d: %+v, %v, want 9", i, exit, err)
		}
		if err := s.release(fmt.Sprint("hold", i)); err != nil {
			t.Errorf("release hold %d: %v", i, err)
		}
	}
}
