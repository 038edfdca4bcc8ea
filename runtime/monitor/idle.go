package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// mfdExec asks for a memfd that can be executed (Linux 6.3).
const mfdExec = 0x10

// becomeIdle replaces the program of the process by the one that Hold has given it.
// The environment is empty. It returns only if it fails.
func becomeIdle(args []string) error {
	// The report's descriptor takes the place of standard input and survives exec.
	if err := unix.Dup3(initPipe, 0, 0); err != nil {
		return fmt.Errorf("keep pipe: %w", err)
	}
	argv, err := syscall.SlicePtrFromStrings(append([]string{"cricket-monitor"}, args[1:]...))
	if err != nil {
		return fmt.Errorf("copy arguments: %w", err)
	}
	envp, path := []*byte{nil}, []byte{0}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, initProgram, uintptr(unsafe.Pointer(&path[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execute sealed program: %w", errno)
}

// sealedIdle returns idleProgram as a sealed file in memory: whoever gets hold of it
// through /proc has nothing of the host's. Nobody may read it, so that the kernel makes
// its process undumpable from the first instruction on. The monitor makes it, so that
// it belongs to the host's root, and no capability in a user namespace leads into the
// process.
func sealedIdle() (*os.File, error) {
	if len(idleCode()) == 0 {
		return nil, fmt.Errorf("make pod init for this architecture: %w", errdefs.ErrNotImplemented)
	}
	fd, err := sealed(podInitArg, idleProgram())
	if fd < 0 {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), podInitArg)
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sealed returns a file in memory that can be executed and not be changed. If it
// fails, the descriptor may be valid all the same.
func sealed(name string, content []byte) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|mfdExec)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return -1, fmt.Errorf("make sealed program: %w", err)
	}
	if _, err := unix.Write(fd, content); err != nil {
		return fd, fmt.Errorf("write sealed program: %w", err)
	}
	if err := unix.Fchmod(fd, 0o111); err != nil {
		return fd, fmt.Errorf("protect sealed program: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fd, fmt.Errorf("seal program: %w", err)
	}
	return fd, nil
}

// idleProgram is an ELF executable of one page: its headers, idleCode and its name.
func idleProgram() []byte {
	const (
		base    = 0x400000
		page    = 0x10000 // the largest of any architecture
		headers = 64 + 2*56
	)
	code := slices.Concat(idleCode(), []byte(podInitArg), []byte{0})
	size := uint64(headers + len(code))
	le := binary.LittleEndian
	// The file header: 64 bit, little endian, an executable.
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	for _, v := range []uint16{2, machine, 1, 0} {
		b = le.AppendUint16(b, v)
	}
	for _, v := range []uint64{base + headers, 64, 0} { // entry, program headers, sections
		b = le.AppendUint64(b, v)
	}
	for _, v := range []uint16{0, 0, 64, 56, 2, 64, 0, 0} { // flags; sizes and counts
		b = le.AppendUint16(b, v)
	}
	// What is loaded, to be read and executed; and a stack that is not executed.
	for _, h := range []struct {
		kind, flags uint32
		rest        [6]uint64 // offset, addresses, sizes, alignment
	}{
		{1, 5, [6]uint64{0, base, base, size, size, page}},
		{0x6474e551, 6, [6]uint64{5: 16}},
	} {
		b = le.AppendUint32(le.AppendUint32(b, h.kind), h.flags)
		for _, v := range h.rest {
			b = le.AppendUint64(b, v)
		}
	}
	return append(b, code...)
}
