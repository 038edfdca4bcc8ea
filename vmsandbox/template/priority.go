package template

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// lowest is the priority of what nobody waits for.
const lowest = 19

// lower gives all threads of a process the lowest priority and returns the one that it
// had. A process that cannot be lowered, or has ended, is left as it is.
func lower(pid int) (had int) {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
	if err != nil || pid <= 0 {
		return 0
	}
	setPriority(pid, lowest)
	return 20 - raw // the system call's result is never negative
}

// setPriority goes over the threads twice: one that was made meanwhile by a thread that
// had not been reached yet has the old priority.
func setPriority(pid, nice int) {
	if pid <= 0 {
		return
	}
	for range 2 {
		threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
		if err != nil {
			return
		}
		for _, t := range threads {
			if tid, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice) // the thread may have ended
			}
		}
	}
}
