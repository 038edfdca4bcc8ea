package executor

import (
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestDeviceProgramInterrupted loads programs on a thread that gets signals all the time,
// as the runtime sends them to have goroutines make way.
func TestDeviceProgramInterrupted(t *testing.T) {
	prog, err := deviceProgram([]specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c"}})
	must(t, err)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	stop := make(chan struct{})
	var signals sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := unix.Tgkill(os.Getpid(), thread, unix.SIGURG); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer signals.Wait()
	defer close(stop)
	for range 500 {
		fd, err := loadProgram(prog)
		must(t, err)
		must(t, unix.Close(fd))
	}
}
