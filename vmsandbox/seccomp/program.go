package seccomp

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ProgramFile is the file in a bundle with the compiled profile of its container. The
// profile itself is nine tenths of a specification's text, and an emulated guest would
// spend tens of milliseconds on reading it.
const ProgramFile = "seccomp.program"

// A program in a file is the flags (4 bytes) and the instructions (8 bytes each), little
// endian.
const (
	flagsSize       = 4
	instructionSize = 8
)

// Bytes is the filter as a file has it; Parse reads it.
func (f *Filter) Bytes() []byte {
	b := make([]byte, 0, flagsSize+instructionSize*len(f.Program))
	b = binary.LittleEndian.AppendUint32(b, uint32(f.Flags))
	for _, i := range f.Program {
		b = binary.LittleEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.LittleEndian.AppendUint32(b, i.K)
	}
	return b
}

// Parse reads a filter. What it means is checked by the kernel; errdefs.ErrInvalidArgument
// is for what cannot be one.
func Parse(b []byte) (*Filter, error) {
	n := (len(b) - flagsSize) / instructionSize
	if n < 1 || n > maxProgram || len(b) != flagsSize+n*instructionSize {
		return nil, fmt.Errorf("seccomp program of %d bytes: %w", len(b), errdefs.ErrInvalidArgument)
	}
	f := &Filter{Flags: uint(binary.LittleEndian.Uint32(b)), Program: make([]unix.SockFilter, n)}
	for i := range f.Program {
		p := b[flagsSize+i*instructionSize:]
		f.Program[i] = unix.SockFilter{
			Code: binary.LittleEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.LittleEndian.Uint32(p[4:]),
		}
	}
	return f, nil
}
