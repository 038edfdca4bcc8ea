package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	govmm "github.com/kata-containers/govmm/qemu"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// loaded is what has been put into a slot, in the order in which it was made.
type loaded struct {
	fdsets []int
	nodes  []string
	// description is the descriptor of a disk of several files that says what it consists of.
	description *description
}

// sector is the unit of disks, in bytes.
const sector = 512

// SetDisk opens the files here, hands them to QEMU, builds a disk of them and exchanges
// it for what is behind the slot's device.
func (m *machine) SetDisk(ctx context.Context, slot string, d vmm.Disk) error {
	if err := checkDisk(slot, d); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disks[slot] != nil {
		return fmt.Errorf("fill slot %s: it is in use: %w", slot, errdefs.ErrFailedPrecondition)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("fill slot %s: %w", slot, err)
	}
	l := &loaded{}
	// What is carried out and not answered for would not be known.
	err := whole(ctx, func(ctx context.Context) error { return m.fill(ctx, slot, d, l) })
	if err != nil {
		err = fmt.Errorf("fill slot %s: %w", slot, err)
		undone := whole(ctx, func(ctx context.Context) error { return m.empty(ctx, slot, l) })
		if undone != nil {
			m.disks[slot] = l // for ClearDisk
		}
		return m.explain(errors.Join(err, undone))
	}
	m.disks[slot] = l
	return nil
}

func (m *machine) fill(ctx context.Context, slot string, d vmm.Disk, l *loaded) error {
	node, err := m.build(ctx, slot, d, l)
	if err != nil {
		return err
	}
	return m.exchange(ctx, slot, node)
}

// empty puts the placeholder back and discards what was there.
func (m *machine) empty(ctx context.Context, slot string, l *loaded) error {
	if err := m.place(ctx, slot, placeholder(slot)); err != nil {
		return err
	}
	return m.discard(ctx, l)
}

// ClearDisk puts the placeholder back.
func (m *machine) ClearDisk(ctx context.Context, slot string) error {
	readOnly, writable := vmm.Slots()
	if !slices.Contains(readOnly, slot) && !slices.Contains(writable, slot) {
		return fmt.Errorf("clear slot %q: there is none: %w", slot, errdefs.ErrInvalidArgument)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.disks[slot]
	if l == nil {
		return nil
	}
	err := whole(ctx, func(ctx context.Context) error { return m.empty(ctx, slot, l) })
	if err != nil {
		return m.explain(fmt.Errorf("clear slot %s: %w", slot, err))
	}
	delete(m.disks, slot)
	return nil
}

func checkDisk(slot string, d vmm.Disk) error {
	readOnly, writable := vmm.Slots()
	switch {
	case d.ReadOnly && !slices.Contains(readOnly, slot), !d.ReadOnly && !slices.Contains(writable, slot):
		return fmt.Errorf("fill slot %q: no slot for such a disk: %w", slot, errdefs.ErrInvalidArgument)
	case len(d.Files) == 0, len(d.Files) > 1 && !d.ReadOnly, len(d.Files) > maxExtents:
		return fmt.Errorf("fill slot %s: a disk of %d files: %w", slot, len(d.Files), errdefs.ErrInvalidArgument)
	case d.Direct && !d.ReadOnly:
		return fmt.Errorf("fill slot %s: field Direct of a writable disk: %w", slot, errdefs.ErrInvalidArgument)
	}
	return nil
}

// exchange changes what is behind a live device. QEMU does not promise this interface;
// the package's tests hold it to it.
func (m *machine) exchange(ctx context.Context, slot, node string) error {
	return m.qmp.Execute(ctx, "qom-set", map[string]any{"path": devicePath(slot), "property": "drive", "value": node}, nil)
}

// place has a node behind a device, whatever is there: what another daemon, or a call whose
// time was over, has left may be half of a change.
func (m *machine) place(ctx context.Context, slot, node string) error {
	switch now, err := m.behind(ctx, slot); {
	case err != nil:
		return err
	case now == node: // QEMU 7.2 aborts if a node is exchanged for itself
		return nil
	}
	return m.exchange(ctx, slot, node)
}

// behind is the node that a device has now.
func (m *machine) behind(ctx context.Context, slot string) (node string, err error) {
	err = m.qmp.Execute(ctx, "qom-get", map[string]any{"path": devicePath(slot), "property": "drive"}, &node)
	return node, err
}

// build makes the block nodes of a disk and returns the top one. What it made is in l,
// also if it fails.
func (m *machine) build(ctx context.Context, slot string, d vmm.Disk, l *loaded) (string, error) {
	base := m.nodeName(slot)
	file, format, err := m.passAll(ctx, base, d, l)
	if err != nil {
		return "", err
	}
	return base, m.addNode(ctx, base, format, file, d, l)
}

// nodeName is a new name in a slot.
func (m *machine) nodeName(slot string) string {
	m.nodes++
	return slot + "." + strconv.Itoa(m.nodes)
}

// passAll hands the files of a disk to QEMU and returns what to open, and as what.
func (m *machine) passAll(ctx context.Context, base string, d vmm.Disk, l *loaded) (file, format string, err error) {
	if len(d.Files) > 1 {
		file, err = m.concatenate(ctx, base, d, l)
		return file, formatConcatenated, err
	}
	f, _, err := openDisk(d.Files[0], d.ReadOnly)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	set, err := m.pass(ctx, base, f, l)
	return setPath(set), "raw", err
}

func fileNode(file string, d vmm.Disk) map[string]any {
	node := map[string]any{"driver": "file", "filename": file, "read-only": d.ReadOnly, "locking": "off"}
	if !d.ReadOnly {
		node["discard"] = "unmap"
		node["cache"] = map[string]any{"no-flush": d.Volatile}
	}
	if len(d.Files) == 1 && d.Direct { // of several files this one is but the description
		node["cache"] = map[string]any{"direct": true}
	}
	return node
}

func (m *machine) addNode(ctx context.Context, name, format, file string, d vmm.Disk, l *loaded) error {
	node := map[string]any{
		"driver": format, "node-name": name, "read-only": d.ReadOnly,
		"file": fileNode(file, d),
	}
	if !d.ReadOnly {
		node["discard"] = "unmap"
	}
	if d.Direct {
		node["cache"] = map[string]any{"direct": true} // the files of a VMDK disk inherit it
	}
	if err := m.qmp.Execute(ctx, "blockdev-add", node, nil); err != nil {
		return err
	}
	l.nodes = append(l.nodes, name)
	return nil
}

// pass hands a file to QEMU with a label that findDisks finds it by, and returns the number
// of the set that it is in.
func (m *machine) pass(ctx context.Context, label string, f *os.File, l *loaded) (int, error) {
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.qmp.Execute(ctx, "add-fd", map[string]any{"opaque": label}, &set, f); err != nil {
		return 0, err
	}
	l.fdsets = append(l.fdsets, set.ID)
	return set.ID, nil
}

// setPath is the name under which QEMU opens what is in a set.
func setPath(id int) string { return fmt.Sprintf("/dev/fdset/%d", id) }

// discard takes back what build made, and leaves in l what is still there.
func (m *machine) discard(ctx context.Context, l *loaded) error {
	if err := m.removeNodes(ctx, l); err != nil {
		return err
	}
	l.description = nil // it is not put back any more
	for len(l.fdsets) > 0 {
		last := len(l.fdsets) - 1
		if err := m.qmp.Execute(ctx, "remove-fd", map[string]any{"fdset-id": l.fdsets[last]}, nil); err != nil {
			return err
		}
		l.fdsets = l.fdsets[:last]
	}
	return nil
}

// dropGone takes out of l the nodes that are not there any more: of what an earlier attempt
// has removed, whose answer did not come, only QEMU knows.
func (m *machine) dropGone(ctx context.Context, l *loaded) error {
	names, err := m.nodeNames(ctx)
	if err != nil {
		return err
	}
	l.nodes = slices.DeleteFunc(l.nodes, func(node string) bool { return !slices.Contains(names, node) })
	return nil
}

// removeNodes leaves in l what is still there.
func (m *machine) removeNodes(ctx context.Context, l *loaded) error {
	if err := m.dropGone(ctx, l); err != nil {
		return err
	}
	for len(l.nodes) > 0 {
		last := len(l.nodes) - 1
		if err := m.ask(func(q *govmm.QMP) error { return q.ExecuteBlockdevDel(ctx, l.nodes[last]) }); err != nil {
			return err
		}
		l.nodes = l.nodes[:last]
	}
	return nil
}

func openDisk(path string, readOnly bool) (*os.File, int64, error) {
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("open disk: %w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open disk: %w", err)
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() == 0 || st.Size()%sector != 0 || st.Size() > slotBytes) {
		err = fmt.Errorf("open disk: %s is no file of whole sectors: %w", path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// findDisks asks QEMU what earlier daemons have put into the slots: the names of nodes and
// of sets of descriptors tell.
func (m *machine) findDisks(ctx context.Context) error {
	names, err := m.nodeNames(ctx)
	if err != nil {
		return err
	}
	var sets []struct {
		ID  int `json:"fdset-id"`
		FDs []struct {
			Opaque string `json:"opaque"`
		} `json:"fds"`
	}
	if err := m.qmp.Execute(ctx, "query-fdsets", nil, &sets); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, set := range sets {
		for _, fd := range set.FDs {
			label, described := parseLabel(fd.Opaque)
			l := m.owner(label)
			if l == nil || slices.Contains(l.fdsets, set.ID) {
				continue
			}
			l.fdsets = append(l.fdsets, set.ID)
			if described != nil {
				described.set, l.description = set.ID, described
			}
		}
	}
	// In the order in which they were made: they are numbered.
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, name := range names {
		if l := m.owner(name); l != nil {
			l.nodes = append(l.nodes, name)
		}
	}
	return nil
}

func (m *machine) nodeNames(ctx context.Context) (names []string, err error) {
	var nodes []struct {
		Name string `json:"node-name"`
	}
	err = m.qmp.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes)
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names, err
}

// owner returns what is loaded into the slot that a name such as "ro0.3" begins
// with, and nil for other names. Names given from now on are new.
func (m *machine) owner(name string) *loaded {
	slot, rest, ok := strings.Cut(name, ".")
	number, err := strconv.Atoi(rest)
	if !ok || err != nil {
		return nil
	}
	m.nodes = max(m.nodes, number)
	if m.disks[slot] == nil {
		m.disks[slot] = &loaded{}
	}
	return m.disks[slot]
}
