package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// strayTime bounds how long a command of an OCI runtime may go on that an earlier
// monitor started, before it is killed.
const strayTime = 5 * time.Second

// strays finds the processes that an earlier monitor may have left behind between two
// of its records: those whose arguments hold both verb and id.
func strays(verb, id string) []*os.File {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []*os.File
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// First the start time, so that the arguments are of the process that is opened.
		st, err := readProc(pid)
		if err != nil || st.dead() {
			continue
		}
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		args := bytes.Split(line, []byte{0})
		is := func(s string) bool {
			return slices.ContainsFunc(args, func(a []byte) bool { return string(a) == s })
		}
		if err != nil || !is(verb) || !is(id) {
			continue
		}
		if f, err := openProcess(pid, st.start); err == nil {
			found = append(found, f)
		}
	}
	return found
}

// endStrays returns when no stray is left: those that do not end in time are killed.
func endStrays(verb, id string, patience time.Duration) {
	for _, pidfd := range strays(verb, id) {
		kill := time.AfterFunc(patience, func() { _ = sendSignal(pidfd, unix.SIGKILL) })
		_ = waitProcess(pidfd) // it can only fail for a pidfd that is closed
		kill.Stop()
		pidfd.Close()
	}
}

// undoCreation takes back what an earlier monitor began and did not finish. Nobody was
// told of the container.
func (s *Server) undoCreation(r record) error {
	id, rt := r.Request.ID, r.Request.Runtime
	patience := strayTime
	if _, err := readPidFile(filepath.Join(r.Request.Bundle, pidFile)); err == nil {
		// The runtime is done. What bears its arguments is the init process, which does not
		// end by itself.
		patience = 0
	}
	endStrays("create", id, patience)
	// Not in the bundle, which may be gone.
	err := s.call(rt, s.shelf.dir, func(log string) []string { return rt.Delete(log, id) })
	if err != nil && !goneMessage(err) {
		return fmt.Errorf("undo creation of container: %w", err)
	}
	if rt.Root != "" { // a runtime that was killed leaves what it does not know itself
		if err := os.RemoveAll(filepath.Join(rt.Root, id)); err != nil {
			return fmt.Errorf("undo creation of container: %w", err)
		}
	}
	removeFiles(r.Request.Bundle)
	if r.Inline {
		if err := removeBundle(r.Request); err != nil {
			return fmt.Errorf("undo creation of container: %w", err)
		}
	}
	return s.shelf.remove(id, recordSuffix)
}

// startedUnseen asks the OCI runtime whether a container was started and the monitor
// killed before it could record that.
func (s *Server) startedUnseen(r record) (bool, error) {
	id, rt := r.Request.ID, r.Request.Runtime
	endStrays("start", id, strayTime)
	answer, err := os.CreateTemp(s.shelf.dir, statePrefix)
	if err != nil {
		return false, err
	}
	defer os.Remove(answer.Name())
	defer answer.Close()
	streams, err := nullStreams()
	if err != nil {
		return false, err
	}
	defer streams.close()
	null := streams[1]
	defer null.Close()
	if streams[1], err = os.OpenFile(answer.Name(), os.O_WRONLY, 0); err != nil {
		return false, err
	}
	if err := s.callWith(rt, s.shelf.dir, callOptions{streams: &streams}, func(log string) []string { return rt.State(log, id) }); err != nil {
		return false, err
	}
	var state struct {
		Status string `json:"status"`
	}
	text, err := io.ReadAll(answer)
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	return state.Status == "running" || state.Status == "paused", err
}
