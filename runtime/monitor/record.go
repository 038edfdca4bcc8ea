package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

// record is what a later monitor needs to take a container over. It is written with a
// rename and never synced: it describes running processes, which a power failure ends.
type record struct {
	Request CreateRequest `json:"request"`
	life
	Cgroup cgroup `json:"cgroup"`
	// InputEnded: the standard input of a StdinOnce container was closed.
	InputEnded bool `json:"inputEnded,omitempty"`
	// Inline: the request brought its specification, which is in the bundle now.
	Inline bool `json:"inline,omitempty"`
	// Frozen: a monitor froze the container for a checkpoint and has not thawed it yet.
	Frozen bool `json:"frozen,omitempty"`
	// Dump is the OCI runtime that dumps it meanwhile, zero if none does.
	Dump Created `json:"dump,omitzero"`
}

// life is what is recorded of containers and children alike.
type life struct {
	Boot      string        `json:"boot"`
	Init      Created       `json:"init"`
	Phase     runtime.Phase `json:"phase"`
	StartedAt time.Time     `json:"startedAt"`
	Exit      runtime.Exit  `json:"exit"`
}

func (l life) state() runtime.State {
	st := runtime.State{Phase: l.Phase, StartedAt: l.StartedAt, Exit: l.Exit}
	if st.Phase != runtime.Exited {
		st.Pid = l.Init.Pid
	}
	return st
}

// hold is the record of a process that keeps namespaces.
type hold struct {
	ID   string  `json:"id"`
	Boot string  `json:"boot"`
	Init Created `json:"init"`
}

const (
	recordSuffix = ".container.json"
	holdSuffix   = ".hold.json"
	execSuffix   = ".exec.json"
	halfSuffix   = ".new" // being written

	// Files of the dealings with an OCI runtime when a monitor begins.
	statePrefix   = "state-"
	callLogPrefix = "runtime-"
)

// shelf is the directory of records.
type shelf struct{ dir string }

func (s shelf) save(id, suffix string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	path := filepath.Join(s.dir, id+suffix)
	if err := os.WriteFile(path+halfSuffix, b, 0o600); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(path+halfSuffix, path); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

func (s shelf) remove(id, suffix string) error {
	err := os.Remove(filepath.Join(s.dir, id+suffix))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// tidy removes what a monitor that was killed had not finished writing.
func (s shelf) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("tidy records: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, halfSuffix) || strings.HasPrefix(name, statePrefix) || strings.HasPrefix(name, callLogPrefix) || s.orphan(name) {
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, name)))
		}
	}
	return err
}

// orphan says of a file that it is the position of a mirror without a record, which comes
// after the position.
func (s shelf) orphan(name string) bool {
	id, ok := strings.CutSuffix(name, positionSuffix)
	if !ok {
		return false
	}
	_, err := os.Lstat(filepath.Join(s.dir, id+mirrorSuffix))
	return errors.Is(err, os.ErrNotExist)
}

// load decodes every record of a suffix. Those that cannot be read are returned as
// errors and left alone.
func load[T any](s shelf, suffix string) (records []T, bad []error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, []error{fmt.Errorf("read records: %w", err)}
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		var r T
		b, err := os.ReadFile(filepath.Join(s.dir, e.Name()))
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("read record %s: %w", e.Name(), err))
			continue
		}
		records = append(records, r)
	}
	return records, bad
}
