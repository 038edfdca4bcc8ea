package main

import (
	"fmt"
	"io"
)

// entry is one file of an initial RAM file system.
type entry struct {
	name         string
	mode         uint32 // st_mode
	data         []byte
	major, minor uint32 // of a device
}

// Types in entry.mode.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
	modeLink = 0o120000
)

// writeCpio writes entries as the kernel reads them (format newc), all owned by root and
// as old as the epoch.
func writeCpio(w io.Writer, entries []entry) error {
	for i, e := range append(entries, entry{name: "TRAILER!!!"}) {
		links := 1
		if e.mode&modeDir != 0 && e.mode&modeFile == 0 {
			links = 2
		}
		head := "070701"
		for _, v := range []uint32{uint32(i + 1), e.mode, 0, 0, uint32(links), 0, uint32(len(e.data)), 0, 0, e.major, e.minor, uint32(len(e.name) + 1), 0} {
			head += fmt.Sprintf("%08x", v)
		}
		if err := padded(w, []byte(head+e.name+"\x00")); err != nil {
			return err
		}
		if err := padded(w, e.data); err != nil {
			return err
		}
	}
	return nil
}

// padded writes p up to a multiple of four bytes.
func padded(w io.Writer, p []byte) error {
	if _, err := w.Write(p); err != nil {
		return err
	}
	_, err := w.Write(make([]byte, -len(p)&3))
	return err
}
