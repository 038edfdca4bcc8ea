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

// load fills the tables. The files of this boot are the truth: the journal may lack
// the latest removals. What only the journal knows counts after a reboot, when the
// files are gone; the mark says which of the two it is.
func (s *Store) load(o Options, old map[string][]byte) error {
	if err := errors.Join(s.Sandboxes.load(), s.Containers.load()); err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	mark := filepath.Join(o.Dir, "boot")
	text, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read boot mark: %w", err)
	}
	if string(text) == o.Boot {
		return nil
	}
	for key, text := range old {
		kind, id, _ := strings.Cut(key, "/")
		switch kind {
		case "sandbox":
			err = s.Sandboxes.adopt(id, text)
		case "container":
			err = s.Containers.adopt(id, text)
		}
		if err != nil {
			return fmt.Errorf("take over record of an earlier boot: %w", err)
		}
	}
	return replaceFile(mark, []byte(o.Boot))
}

// ContainersOf lists the containers of a sandbox, the oldest first.
func (s *Store) ContainersOf(sandboxID string) []*Container {
	return s.Containers.where(func(c *Container) bool { return c.SandboxID == sandboxID })
}

// Close writes what is left to the journal.
func (s *Store) Close() error { return s.journal.close() }

// ShortID is the beginning of an id, for texts that people read.
func ShortID(id string) string { return id[:min(13, len(id))] }
