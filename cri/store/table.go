package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// object is a record that a Table can hold: *Sandbox and *Container.
type object[R any] interface {
	id() string
	name() string
	created() time.Time
	clone() R
	encode() ([]byte, error)
	Pending() bool
}

// Table holds the records of one kind. All methods are safe for concurrent use.
type Table[R object[R]] struct {
	kind    string
	dir     string
	journal *journal
	decode  func(id string, text []byte) (R, error)
	broken  func(id, why string) R

	mu    sync.RWMutex // never held while files are written
	byID  map[string]R
	names map[string]string // name -> id

	// writing orders the file writes of one record; records share locks by hash.
	writing [64]sync.Mutex
}

func newTable[R object[R]](kind, dir string, j *journal, decode func(string, []byte) (R, error), broken func(string, string) R) *Table[R] {
	return &Table[R]{
		kind: kind, dir: filepath.Join(dir, kind), journal: j, decode: decode, broken: broken,
		byID: map[string]R{}, names: map[string]string{},
	}
}

// Get finds the record with this id. Error: errdefs.ErrNotFound.
func (t *Table[R]) Get(id string) (R, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, ok := t.byID[id]
	if !ok {
		return r, fmt.Errorf("find %s %q: %w", t.kind, id, errdefs.ErrNotFound)
	}
	return r, nil
}

// Find finds a record by its id or a prefix of it that no other has. What is pending is
// not there yet: nobody who asks shall see it, or wait until it is done. Errors:
// errdefs.ErrNotFound, errdefs.ErrInvalidArgument for an empty or ambiguous prefix.
func (t *Table[R]) Find(prefix string) (R, error) {
	var found R
	if prefix == "" {
		return found, fmt.Errorf("find %s: empty id: %w", t.kind, errdefs.ErrInvalidArgument)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if r, ok := t.byID[prefix]; ok && !r.Pending() {
		return r, nil
	}
	n := 0
	for id, r := range t.byID {
		if strings.HasPrefix(id, prefix) && !r.Pending() {
			found, n = r, n+1
		}
	}
	switch n {
	case 0:
		return found, fmt.Errorf("find %s %q: %w", t.kind, prefix, errdefs.ErrNotFound)
	case 1:
		return found, nil
	}
	return found, fmt.Errorf("find %s: %q is the beginning of %d ids: %w", t.kind, prefix, n, errdefs.ErrInvalidArgument)
}

// List returns all records, the oldest first.
func (t *Table[R]) List() []R { return t.where(func(R) bool { return true }) }

// where lists the records that match, the oldest first: sorting is what costs.
func (t *Table[R]) where(match func(R) bool) []R {
	t.mu.RLock()
	var all []R
	for _, r := range t.byID {
		if match(r) {
			all = append(all, r)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(all, func(a, b R) int {
		if c := a.created().Compare(b.created()); c != 0 {
			return c
		}
		return strings.Compare(a.id(), b.id())
	})
	return all
}

// Add puts a new record and reserves its name. Errors: errdefs.ErrAlreadyExists if the
// id or the name is taken, errdefs.ErrResourceExhausted if it cannot be written.
func (t *Table[R]) Add(r R) error {
	unlock := t.lock(r.id())
	defer unlock()
	if err := t.insert(r); err != nil {
		return err
	}
	if err := t.write(r); err != nil {
		t.journal.put(t.key(r.id()), nil)
		t.drop(r)
		return err
	}
	return nil
}

func (t *Table[R]) insert(r R) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.byID[r.id()]; ok {
		return fmt.Errorf("add %s: id is taken: %w", t.kind, errdefs.ErrAlreadyExists)
	}
	if by, ok := t.names[r.name()]; ok {
		return fmt.Errorf("add %s: name %q is taken by %s: %w", t.kind, r.name(), by, errdefs.ErrAlreadyExists)
	}
	t.byID[r.id()], t.names[r.name()] = r, r.id()
	return nil
}

func (t *Table[R]) drop(r R) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, r.id())
	if t.names[r.name()] == r.id() {
		delete(t.names, r.name())
	}
}

// Update changes a copy of a record by f and puts it in the record's place. f must
// replace maps, slices and pointers, never change what they refer to. An error other
// than errdefs.ErrNotFound says that a daemon that starts again would not know the change.
func (t *Table[R]) Update(id string, f func(R)) (R, error) {
	unlock := t.lock(id)
	defer unlock()
	old, err := t.Get(id)
	if err != nil {
		return old, err
	}
	r := old.clone()
	f(r)
	t.mu.Lock()
	t.byID[id] = r
	t.mu.Unlock()
	return r, t.write(r)
}

// Delete forgets a record and frees its name. It is idempotent and needs no room on
// the disk.
func (t *Table[R]) Delete(id string) error {
	unlock := t.lock(id)
	defer unlock()
	r, err := t.Get(id)
	if err != nil {
		return nil
	}
	if err := os.Remove(t.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete record of %s: %w", t.kind, err)
	}
	t.journal.put(t.key(id), nil)
	t.drop(r)
	return nil
}

func (t *Table[R]) lock(id string) (unlock func()) {
	h := fnv.New32a()
	h.Write([]byte(id))
	m := &t.writing[h.Sum32()%uint32(len(t.writing))]
	m.Lock()
	return m.Unlock
}

func (t *Table[R]) file(id string) string { return filepath.Join(t.dir, id+".json") }

func (t *Table[R]) key(id string) string { return t.kind + "/" + id }

func (t *Table[R]) write(r R) error {
	text, err := r.encode()
	if err != nil {
		return err
	}
	if !r.Pending() {
		// The journal's disk may have room where the state's has none.
		t.journal.put(t.key(r.id()), text)
	}
	if err := replaceFile(t.file(r.id()), text); err != nil {
		return fmt.Errorf("write record of %s: %w: %w", t.kind, errdefs.ErrResourceExhausted, err)
	}
	return nil
}

// load reads the files, and tells the journal of what it lacks; old is what it holds. What
// a crash left half-written is removed.
func (t *Table[R]) load(old map[string][]byte) error {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			if err := os.RemoveAll(filepath.Join(t.dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		text, err := os.ReadFile(t.file(id))
		r, whole := t.put(id, text, err)
		if whole && !r.Pending() && !bytes.Equal(text, old[t.key(id)]) {
			t.journal.put(t.key(id), text)
		}
	}
	return nil
}

func (t *Table[R]) has(id string) bool {
	_, err := t.Get(id)
	return err == nil
}

// adopt takes a record over from the journal that no file has.
func (t *Table[R]) adopt(id string, text []byte) error {
	t.put(id, text, nil)
	return replaceFile(t.file(id), text)
}

// put returns the record, and whether it is not a broken one.
func (t *Table[R]) put(id string, text []byte, err error) (r R, whole bool) {
	if err == nil {
		r, err = t.decode(id, text)
	}
	whole = err == nil
	if !whole {
		r = t.broken(id, err.Error())
	}
	if t.insert(r) != nil { // two records of one name: the second cannot be right
		r, whole = t.broken(id, "its name belongs to another"), false
		t.byID[id], t.names[r.name()] = r, id
	}
	return r, whole
}

// replaceFile writes a file whole or not at all, as far as a crash of this process
// goes. It does not sync: nothing here is to outlive the kernel.
func replaceFile(path string, text []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
