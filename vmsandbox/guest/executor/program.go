package executor

import (
	"embed"
	"fmt"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

//go:generate stub/build amd64 stub/stub_amd64
//go:generate stub/build arm64 stub/stub_arm64
//go:generate sh -c "cd stub && sha256sum build stub.c stub_amd64 stub_arm64 >SHA256SUMS"

// stubs are built from stub/stub.c; tests check that.
//
//go:embed stub/stub_amd64 stub/stub_arm64
var stubs embed.FS

// openStub returns the stub as a file without a name that nothing can change: a process
// of a container could get at it through /proc.
func openStub() (*os.File, error) {
	program, err := stubs.ReadFile("stub/stub_" + runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("find stub for %s: %w", runtime.GOARCH, errdefs.ErrNotImplemented)
	}
	fd, err := unix.MemfdCreate("stub", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make stub: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stub")
	if _, err = f.Write(program); err == nil {
		const seals = unix.F_SEAL_SEAL | unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make stub: %w", err)
	}
	return raise(f)
}

// raise gives a descriptor a number that no child wants for something else.
func raise(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, fdMounts)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
