package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// failure is the exit code of a launcher that could not confine itself.
const failure = 126

// Main confines the process and becomes the program: args are a Request and the program
// with its arguments, as Command puts them. The inherited descriptors stay. It never
// returns; what failed is said on standard error.
func Main(args []string) {
	err := become(args)
	fmt.Fprintln(os.Stderr, "confine:", err)
	os.Exit(failure)
}

func become(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: confine REQUEST PROGRAM [ARGUMENT...]")
	}
	var r Request
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	if r.User == 0 {
		return errors.New("read request: root cannot be confined")
	}
	runtime.LockOSThread() // privileges belong to threads; the others end with exec
	if err := isolate(r); err != nil {
		return err
	}
	if err := renounce(r); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", args[1], unix.Exec(args[1], args[1:], os.Environ()))
}

// namespaces that the program has for itself. It keeps the host's processes in view as
// little as a pod's: without /proc and with a user of its own it finds none to signal.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// isolate gives the thread namespaces and a root of its own.
func isolate(r Request) error {
	if err := unix.Unshare(namespaces); err != nil {
		return fmt.Errorf("leave namespaces: %w", err)
	}
	// Mounts of the host still reach the shared directory; nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts slaves: %w", err)
	}
	return newRoot(r)
}

// capabilities that a program with a shared directory keeps: with them it can give files
// there the owners and modes that it is told.
func capabilities(r Request) []uint {
	if r.Shared == "" {
		return nil
	}
	return []uint{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID}
}

// renounce takes from the thread what the program does not need. The order matters:
// every step needs what later ones take.
func renounce(r Request) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil { // it would hold a guest's memory
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	keep := capabilities(r)
	if err := dropBounding(keep); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	id := uintptr(r.User)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop groups: %w", errno)
	}
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, id, id, id); errno != 0 {
			return fmt.Errorf("change user: %w", errno)
		}
	}
	if err := setCapabilities(keep); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("renounce new privileges: %w", err)
	}
	return nil
}

func dropBounding(keep []uint) error {
	for c := uint(0); ; c++ {
		if slices.Contains(keep, c) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_WAKE_ALARM {
			return nil // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
}

// setCapabilities makes the capabilities survive the program's execution as another user
// than root.
func setCapabilities(keep []uint) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	var data [2]unix.CapUserData
	for _, c := range keep {
		bit := uint32(1) << (c % 32)
		data[c/32].Effective |= bit
		data[c/32].Permitted |= bit
		data[c/32].Inheritable |= bit
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&head, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	for _, c := range keep {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, err)
		}
	}
	return nil
}
