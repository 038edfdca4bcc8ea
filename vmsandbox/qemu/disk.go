package qemu

import (
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
	fdsets    []int
	nodes     []string
	throttles []string
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
	l := &loaded{}
	node, err := m.build(ctx, slot, d, l)
	if err == nil {
		err = m.exchange(ctx, slot, node)
	}
	if err != nil {
		err = fmt.Errorf("fill slot %s: %w", slot, err)
		return m.explain(errors.Join(err, m.discard(context.WithoutCancel(ctx), l)))
	}
	m.disks[slot] = l
	return nil
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
	err := m.exchange(ctx, slot, placeholder(slot))
	if err == nil {
		err = m.discard(ctx, l)
	}
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
	case d.BytesPerSecond < 0:
		return fmt.Errorf("fill slot %s: field BytesPerSecond: %w", slot, errdefs.ErrInvalidArgument)
	}
	return nil
}

// exchange changes what is behind a live device. QEMU does not promise this interface;
// the package's tests hold it to it.
func (m *machine) exchange(ctx context.Context, slot, node string) error {
	return m.qmp.Execute(ctx, "qom-set", map[string]any{"path": devicePath(slot), "property": "drive", "value": node}, nil)
}

// build makes the block nodes of a disk and returns the top one. What it made is in l,
// also if it fails.
func (m *machine) build(ctx context.Context, slot string, d vmm.Disk, l *loaded) (string, error) {
	m.nodes++
	base := slot + "." + strconv.Itoa(m.nodes)
	file, format, err := m.passAll(ctx, base, d, l)
	if err != nil {
		return "", err
	}
	node := map[string]any{
		"driver": format, "node-name": base, "read-only": d.ReadOnly,
		"file": fileNode(file, d),
	}
	if !d.ReadOnly {
		node["discard"] = "unmap"
	}
	if d.Direct {
		node["cache"] = map[string]any{"direct": true} // the files of a VMDK disk inherit it
	}
	if err := m.addNode(ctx, node, base, l); err != nil || d.BytesPerSecond == 0 {
		return base, err
	}
	return m.throttle(ctx, base, d.BytesPerSecond, l)
}

// passAll hands the files of a disk to QEMU and returns what to open, and as what.
func (m *machine) passAll(ctx context.Context, base string, d vmm.Disk, l *loaded) (file, format string, err error) {
	if len(d.Files) > 1 {
		file, err = m.concatenate(ctx, base, d.Files, l)
		return file, "vmdk", err
	}
	f, _, err := openDisk(d.Files[0], d.ReadOnly)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	file, err = m.pass(ctx, base, f, l)
	return file, "raw", err
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

func (m *machine) addNode(ctx context.Context, node map[string]any, name string, l *loaded) error {
	if err := m.qmp.Execute(ctx, "blockdev-add", node, nil); err != nil {
		return err
	}
	l.nodes = append(l.nodes, name)
	return nil
}

// throttle puts a limit of throughput over a node.
func (m *machine) throttle(ctx context.Context, base string, bytesPerSecond int64, l *loaded) (string, error) {
	group := base + "-limit"
	err := m.qmp.Execute(ctx, "object-add", map[string]any{
		"qom-type": "throttle-group", "id": group, "limits": map[string]any{"bps-total": bytesPerSecond},
	}, nil)
	if err != nil {
		return "", err
	}
	l.throttles = append(l.throttles, group)
	top := base + "-top"
	return top, m.addNode(ctx, map[string]any{"driver": "throttle", "node-name": top, "throttle-group": group, "file": base}, top, l)
}

// pass hands a file to QEMU and returns the name under which that opens it.
func (m *machine) pass(ctx context.Context, base string, f *os.File, l *loaded) (string, error) {
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.qmp.Execute(ctx, "add-fd", map[string]any{"opaque": base}, &set, f); err != nil {
		return "", err
	}
	l.fdsets = append(l.fdsets, set.ID)
	return fmt.Sprintf("/dev/fdset/%d", set.ID), nil
}

// discard takes back what build made. All of it is tried.
func (m *machine) discard(ctx context.Context, l *loaded) error {
	var failed error
	for _, node := range slices.Backward(l.nodes) {
		err := m.ask(func(q *govmm.QMP) error { return q.ExecuteBlockdevDel(ctx, node) })
		failed = errors.Join(failed, err)
	}
	for _, group := range l.throttles {
		failed = errors.Join(failed, m.qmp.Execute(ctx, "object-del", map[string]any{"id": group}, nil))
	}
	for _, set := range l.fdsets {
		failed = errors.Join(failed, m.qmp.Execute(ctx, "remove-fd", map[string]any{"fdset-id": set}, nil))
	}
	return failed
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

// findDisks asks QEMU what earlier daemons have put into the slots: the names of nodes,
// of limits and of sets of descriptors tell.
func (m *machine) findDisks(ctx context.Context) error {
	var nodes []struct {
		Name string `json:"node-name"`
	}
	if err := m.qmp.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
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
			if l := m.owner(fd.Opaque); l != nil && !slices.Contains(l.fdsets, set.ID) {
				l.fdsets = append(l.fdsets, set.ID)
			}
		}
	}
	// A limit lies over what it limits, and its name is longer.
	slices.SortFunc(nodes, func(a, b struct {
		Name string `json:"node-name"`
	}) int {
		return len(a.Name) - len(b.Name)
	})
	for _, n := range nodes {
		l := m.owner(n.Name)
		if l == nil {
			continue
		}
		l.nodes = append(l.nodes, n.Name)
		if base, ok := strings.CutSuffix(n.Name, "-top"); ok {
			l.throttles = append(l.throttles, base+"-limit")
		}
	}
	return nil
}

// owner returns what is loaded into the slot that a name such as "ro0.3-top" begins
// with, and nil for other names. Names given from now on are new.
func (m *machine) owner(name string) *loaded {
	slot, rest, ok := strings.Cut(name, ".")
	number, err := strconv.Atoi(strings.TrimSuffix(rest, "-top"))
	if !ok || err != nil {
		return nil
	}
	m.nodes = max(m.nodes, number)
	if m.disks[slot] == nil {
		m.disks[slot] = &loaded{}
	}
	return m.disks[slot]
}
