package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Options say where records are kept.
type Options struct {
	// Dir is on a file system that a reboot empties; it is made if it is missing.
	Dir string
	// Journal is a directory that survives a reboot.
	Journal string
	// Boot identifies the kernel's boot.
	Boot string
	Log  *slog.Logger
}

// Store is all the records of the daemon. It belongs to one process.
type Store struct {
	Sandboxes  *Table[*Sandbox]
	Containers *Table[*Container]
	journal    *journal
}

// Open reads all records. Those that cannot be read are in the tables as broken ones;
// an error means that the directories themselves cannot be used.
func Open(o Options) (*Store, error) {
	j, old, err := openJournal(o.Journal, o.Log)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	s := &Store{
		Sandboxes:  newTable("sandbox", o.Dir, j, decodeSandbox, brokenSandbox),
		Containers: newTable("container", o.Dir, j, decodeContainer, brokenContainer),
		journal:    j,
	}
	if err := s.load(o, old); err != nil {
		return nil, errors.Join(err, j.close())
	}
	s.complain(o.Log)
	return s, nil
}

// complain logs what cannot be read, once a start: it can be removed like any other.
func (s *Store) complain(log *slog.Logger) {
	for _, r := range s.Sandboxes.List() {
		if r.Broken != "" {
			log.Error("record cannot be read", "sandbox", r.ID, "reason", r.Broken)
		}
	}
	for _, r := range s.Containers.List() {
		if r.Broken != "" {
			log.Error("record cannot be read", "container", r.ID, "reason", r.Broken)
		}
	}
}

// load fills the tables. The files of this boot are the truth: the journal may lack the
// latest changes and removals, which it is told of. What only the journal knows counts
// after a reboot, when the files are gone; the mark says which of the two it is.
func (s *Store) load(o Options, old map[string][]byte) error {
	if err := errors.Join(s.Sandboxes.load(old), s.Containers.load(old)); err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	mark := filepath.Join(o.Dir, "boot")
	text, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read boot mark: %w", err)
	}
	rebooted := string(text) != o.Boot
	for key, text := range old {
		kind, id, _ := strings.Cut(key, "/")
		t := s.table(kind)
		switch {
		case t == nil || t.has(id):
		case !rebooted:
			s.journal.put(key, nil)
		default:
			if err := t.adopt(id, text); err != nil {
				return fmt.Errorf("take over record of an earlier boot: %w", err)
			}
		}
	}
	if !rebooted {
		return nil
	}
	return replaceFile(mark, []byte(o.Boot))
}

// heir is a Table of any kind that takes over what the journal holds.
type heir interface {
	has(id string) bool
	adopt(id string, text []byte) error
}

// table is nil for a kind that this version does not know.
func (s *Store) table(kind string) heir {
	switch kind {
	case "sandbox":
		return s.Sandboxes
	case "container":
		return s.Containers
	}
	return nil
}

// ContainersOf lists the containers of a sandbox, the oldest first.
func (s *Store) ContainersOf(sandboxID string) []*Container {
	return s.Containers.where(func(c *Container) bool { return c.SandboxID == sandboxID })
}

// Close writes what is left to the journal.
func (s *Store) Close() error { return s.journal.close() }

// ShortID is the beginning of an id, for texts that people read.
func ShortID(id string) string { return id[:min(13, len(id))] }
