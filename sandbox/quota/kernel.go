package quota

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/quota.h, dqblk_xfs.h and fs.h.
const (
	project = 2 // PRJQUOTA

	getQuota = 0x800007 // Q_GETQUOTA
	setQuota = 0x800008 // Q_SETQUOTA
	getState = 'X'<<8 + 8

	blockLimits = 1 // QIF_BLIMITS
	blockUnit   = 1024

	stateVersion = 1
	enforced     = 1 << 5 // FS_QUOTA_PDQ_ENFD

	inherit = 0x200 // FS_XFLAG_PROJINHERIT
	getAttr = 0x801c581f
	setAttr = 0x401c5820
)

// quotaBlock is struct if_dqblk.
type quotaBlock struct {
	hardBlocks, softBlocks uint64 // of 1 KiB
	space                  uint64 // bytes
	hardInodes, softInodes uint64
	inodes                 uint64
	blockTime, inodeTime   uint64
	valid                  uint32
	_                      uint32
}

// quotaState is struct fs_quota_statv.
type quotaState struct {
	version int8
	_       uint8
	flags   uint16
	_       [196]byte
}

// fileAttr is struct fsxattr.
type fileAttr struct {
	flags, extentSize, extents, project, cowExtentSize uint32
	_                                                  [8]byte
}

// control is quotactl_fd(2), of Linux 5.14: it needs no name of a block device.
func control(fd int, command uintptr, id uint32, data unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), command<<8|project, uintptr(id), uintptr(data), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("quotactl_fd", errno)
	}
	return nil
}

// state tells whether limits of projects are enforced.
func state(fd int) (bool, error) {
	s := quotaState{version: stateVersion}
	if err := control(fd, getState, 0, unsafe.Pointer(&s)); err != nil {
		return false, err
	}
	return s.flags&enforced != 0, nil
}

// setLimit sets how many bytes a project may hold, rounded up to blocks; 0 takes the limit
// back.
func setLimit(fd int, id uint32, limit uint64) error {
	q := quotaBlock{hardBlocks: (limit + blockUnit - 1) / blockUnit, valid: blockLimits}
	return control(fd, setQuota, id, unsafe.Pointer(&q))
}

func usage(fd int, id uint32) (Usage, error) {
	var q quotaBlock
	if err := control(fd, getQuota, id, unsafe.Pointer(&q)); err != nil {
		return Usage{}, fmt.Errorf("ask for the usage of project %d: %w", id, err)
	}
	return Usage{Bytes: q.space, Inodes: q.inodes}, nil
}

func attr(fd int, command uintptr, a *fileAttr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), command, uintptr(unsafe.Pointer(a)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

// mark puts a directory into a project, and what is made in it from then on.
func mark(fd int, id uint32) error {
	var a fileAttr
	if err := attr(fd, getAttr, &a); err != nil {
		return err
	}
	a.project, a.flags = id, a.flags|inherit
	return attr(fd, setAttr, &a)
}

// readMark returns a directory's project, 0 if it has none.
func readMark(fd int) (uint32, error) {
	var a fileAttr
	if err := attr(fd, getAttr, &a); err != nil {
		return 0, fmt.Errorf("read project: %w", err)
	}
	return a.project, nil
}
