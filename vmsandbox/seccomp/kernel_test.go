package seccomp

import (
	"runtime"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/spec"
)

// filtered runs fn on a thread of its own under a filter. fn must do nothing but raw
// system calls.
func filtered(t *testing.T, p *specs.LinuxSeccomp, fn func()) {
	t.Helper()
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	prog := unix.SockFprog{Len: uint16(len(f.Program)), Filter: &f.Program[0]}
	failed := make(chan unix.Errno, 1)
	onThread(func() {
		_, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog)))
		}
		if errno == 0 {
			fn()
		}
		failed <- errno
	})
	if errno := <-failed; errno != 0 {
		t.Fatalf("install filter: %v", errno)
	}
	runtime.KeepAlive(f)
}

// onThread runs fn on a thread that ends with it, and is not the main one.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn()
	}()
	<-done
}

func TestInKernel(t *testing.T) {
	profile, err := spec.DefaultSeccomp(spec.DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	const query = 0xffffffff
	calls := []struct {
		name   string
		number uintptr
		args   [6]uintptr
		want   unix.Errno // of the call itself, where it is let through
	}{
		{"getpid", unix.SYS_GETPID, [6]uintptr{}, 0},
		{"personality to ask", unix.SYS_PERSONALITY, [6]uintptr{query}, 0},
		{"personality to change", unix.SYS_PERSONALITY, [6]uintptr{0x40000}, unix.EPERM},
		{"namespace by clone", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_SIGHAND}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{}, unix.ENOSYS},
		{"mount", unix.SYS_MOUNT, [6]uintptr{}, unix.EPERM},
		{"socket of another family", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM | 0x80}, unix.EPERM},
		{"an invalid close", unix.SYS_CLOSE, [6]uintptr{1 << 20}, unix.EBADF},
		{"a call of the future", 4000, [6]uintptr{}, unix.ENOSYS},
	}
	got := make([]unix.Errno, len(calls))
	filtered(t, profile, func() {
		for i := range calls {
			c := &calls[i]
			_, _, got[i] = unix.RawSyscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		}
	})
	for i, c := range calls {
		if got[i] != c.want {
			t.Errorf("%s: %v, want %v", c.name, got[i], c.want)
		}
	}
}
