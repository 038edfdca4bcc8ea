package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxExtents bounds how many files a disk consists of; each takes descriptors of QEMU.
const maxExtents = 128

// concatenate lays files one after the other as a flat VMDK disk, whose descriptor names
// them.
func (m *machine) concatenate(ctx context.Context, base string, paths []string, l *loaded) (string, error) {
	var extents []extent
	for _, path := range paths {
		f, size, err := openDisk(path, true)
		if err != nil {
			return "", err
		}
		name, err := m.pass(ctx, base, f, l)
		f.Close()
		if err != nil {
			return "", err
		}
		extents = append(extents, extent{name: name, sectors: size / sector})
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
	return m.pass(ctx, base, readable, l)
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
