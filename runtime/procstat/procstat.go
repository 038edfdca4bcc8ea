// Package procstat counts what processes have open and what their threads do, as
// proc_pid(5) tells it. It takes as long as there are descriptors and threads.
package procstat

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// Read adds up the figures of processes. Those that have ended are left out; the oldest
// one's limits count. It ends with ctx, with the context's error.
func Read(ctx context.Context, pids []int) (runtime.ProcessStat, error) {
	var s runtime.ProcessStat
	oldest, since := "", uint64(0)
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		dir := "/proc/" + strconv.Itoa(pid)
		_, start, ok := stat(dir + "/stat")
		if !ok {
			continue
		}
		if oldest == "" || start < since {
			oldest, since = dir, start
		}
		s.Processes++
		countDescriptors(dir+"/fd", &s)
		countTasks(dir+"/task", &s)
	}
	if oldest != "" {
		s.MaxOpenFiles = maxOpenFiles(oldest + "/limits")
	}
	return s, nil
}

// names lists a directory, unsorted; what is gone is empty.
func names(dir string) (*os.File, []string) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, nil
	}
	list, err := f.Readdirnames(-1)
	if err != nil {
		list = nil // it ended meanwhile
	}
	return f, list
}

func countDescriptors(dir string, s *runtime.ProcessStat) {
	f, list := names(dir)
	if f == nil {
		return
	}
	defer f.Close()
	target := make([]byte, len("socket:"))
	for _, name := range list {
		s.FileDescriptors++
		n, err := unix.Readlinkat(int(f.Fd()), name, target)
		if err == nil && string(target[:n]) == "socket:" {
			s.Sockets++
		}
	}
}

func countTasks(dir string, s *runtime.ProcessStat) {
	f, list := names(dir)
	if f == nil {
		return
	}
	defer f.Close()
	for _, name := range list {
		state, _, ok := stat(dir + "/" + name + "/stat")
		if !ok {
			continue
		}
		switch state {
		case 'R':
			s.Running++
		case 'S', 'I':
			s.Sleeping++
		case 'T', 't':
			s.Stopped++
		case 'D':
			s.Uninterruptible++
		}
	}
}

// stat reads the state of a task and when it began, in ticks since boot.
func stat(file string) (state byte, start uint64, ok bool) {
	content, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, false
	}
	// The name, in parentheses, may hold anything.
	fields := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return fields[0][0], start, err == nil
}

func maxOpenFiles(file string) *uint64 {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return nil
		}
		n, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return nil // unlimited
		}
		return &n
	}
	return nil
}
