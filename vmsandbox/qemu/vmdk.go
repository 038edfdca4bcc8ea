package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// maxExtents bounds how many files a disk consists of; each takes descriptors of QEMU.
const maxExtents = 128

// formatConcatenated is QEMU's driver for a disk of several files.
const formatConcatenated = "vmdk"

// description is what a disk of several files is opened by: all that it takes to open it
// again.
type description struct {
	set    int // of descriptors
	direct bool
}

const (
	labelDescription = " description"
	labelDirect      = " direct"
)

// label marks the descriptor with what the next daemon has to know.
func (d *description) label(base string) string {
	if d.direct {
		return base + labelDescription + labelDirect
	}
	return base + labelDescription
}

func parseLabel(label string) (base string, d *description) {
	label, direct := strings.CutSuffix(label, labelDirect)
	base, found := strings.CutSuffix(label, labelDescription)
	if !found {
		return base, nil
	}
	return base, &description{direct: direct}
}

// concatenate lays files one after the other as a flat VMDK disk, whose descriptor names
// them.
func (m *machine) concatenate(ctx context.Context, base string, d vmm.Disk, l *loaded) (string, error) {
	var extents []extent
	for _, path := range d.Files {
		f, size, err := openDisk(path, true)
		if err != nil {
			return "", err
		}
		set, err := m.pass(ctx, base, f, l)
		f.Close()
		if err != nil {
			return "", err
		}
		extents = append(extents, extent{name: setPath(set), sectors: size / sector})
	}
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("describe disk: %w", err)
	}
	f := os.NewFile(uintptr(fd), "disk")
	defer f.Close()
	if _, err := f.Write(describe(extents)); err != nil {
		return "", fmt.Errorf("describe disk: %w", err)
	}
	// QEMU takes a descriptor only if that allows no more than it wants.
	readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", fmt.Errorf("describe disk: %w", err)
	}
	defer readable.Close()
	is := &description{direct: d.Direct}
	if is.set, err = m.pass(ctx, is.label(base), readable, l); err != nil {
		return "", err
	}
	l.description = is
	return setPath(is.set), nil
}

// takeOut puts placeholders in the place of disks of several files, which QEMU does not save
// a machine with. Their files stay open in QEMU.
func (m *machine) takeOut(ctx context.Context) error {
	return m.eachConcatenated(func(slot string, l *loaded) error {
		err := m.place(ctx, slot, placeholder(slot))
		if err == nil {
			err = m.removeNodes(ctx, l)
		}
		if err != nil {
			return fmt.Errorf("take disk out of slot %s: %w", slot, err)
		}
		return nil
	})
}

// putBack undoes takeOut as far as that came, also that of a daemon before this one.
func (m *machine) putBack(ctx context.Context) error {
	return m.eachConcatenated(func(slot string, l *loaded) error {
		if err := m.putBackDisk(ctx, slot, l); err != nil {
			return fmt.Errorf("put disk back into slot %s: %w", slot, err)
		}
		return nil
	})
}

func (m *machine) putBackDisk(ctx context.Context, slot string, l *loaded) error {
	if err := m.dropGone(ctx, l); err != nil {
		return err
	}
	if len(l.nodes) == 0 {
		d := vmm.Disk{ReadOnly: true, Direct: l.description.direct}
		if err := m.addNode(ctx, m.nodeName(slot), formatConcatenated, setPath(l.description.set), d, l); err != nil {
			return err
		}
	}
	return m.place(ctx, slot, l.nodes[len(l.nodes)-1])
}

func (m *machine) eachConcatenated(f func(slot string, l *loaded) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for slot, l := range m.disks {
		if l.description == nil {
			continue
		}
		if err := f(slot, l); err != nil {
			return err
		}
	}
	return nil
}

type extent struct {
	name    string
	sectors int64
}

// describe writes the description of a flat VMDK disk. The geometry is a formality.
func describe(extents []extent) []byte {
	var b bytes.Buffer
	b.WriteString("# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n")
	for _, e := range extents {
		fmt.Fprintf(&b, "RW %d FLAT %q 0\n", e.sectors, e.name)
	}
	b.WriteString("ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"1\"\n" +
		"ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n")
	return b.Bytes()
}
