// Package procstat counts what processes have open and what their threads do, as
// proc_pid(5) tells it. It takes as long as there are descriptors and threads, up to a
// bound.
package procstat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

const (
	// maxOpen is how many descriptors and threads are counted. Each costs a system call or
	// more, and processes that inherit descriptors have a million each for nothing.
	maxOpen = 1 << 20
	// batch is how many of them are listed at once.
	batch = 1024
)

// Read adds up the figures of processes. Those that have ended are left out; the oldest
// one's limits count. It ends with ctx, with the context's error. Processes that have more
// than a million descriptors and threads together are errdefs.ErrResourceExhausted.
func Read(ctx context.Context, pids []int) (runtime.ProcessStat, error) {
	return read(ctx, pids, maxOpen)
}

func read(ctx context.Context, pids []int, most int) (runtime.ProcessStat, error) {
	c := count{left: most}
	oldest, since := "", uint64(0)
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return c.ProcessStat, err
		}
		dir := "/proc/" + strconv.Itoa(pid)
		_, start, ok := stat(dir + "/stat")
		if !ok {
			continue
		}
		if oldest == "" || start < since {
			oldest, since = dir, start
		}
		c.Processes++
		if err := c.each(ctx, dir+"/fd", c.descriptor); err != nil {
			return c.ProcessStat, err
		}
		if err := c.each(ctx, dir+"/task", c.task); err != nil {
			return c.ProcessStat, err
		}
	}
	if oldest != "" {
		c.MaxOpenFiles = maxOpenFiles(oldest + "/limits")
	}
	return c.ProcessStat, nil
}

// count is what has been counted.
type count struct {
	runtime.ProcessStat
	left int // to count
}

// each calls one with every name in a directory; what is gone is empty.
func (c *count) each(ctx context.Context, dir string, one func(dir *os.File, name string)) error {
	f, err := os.Open(dir)
	if err != nil {
		return nil //nolint:nilerr // it ended meanwhile
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(batch)
		if err != nil {
			return nil //nolint:nilerr // that was all, or it ended meanwhile
		}
		if c.left -= len(names); c.left < 0 {
			return fmt.Errorf("count processes: too many descriptors and threads: %w", errdefs.ErrResourceExhausted)
		}
		for _, name := range names {
			one(f, name)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (c *count) descriptor(dir *os.File, name string) {
	var target [len("socket:")]byte
	c.FileDescriptors++
	n, err := unix.Readlinkat(int(dir.Fd()), name, target[:])
	if err == nil && string(target[:n]) == "socket:" {
		c.Sockets++
	}
}

func (c *count) task(dir *os.File, name string) {
	state, _, ok := stat(dir.Name() + "/" + name + "/stat")
	if !ok {
		return
	}
	switch state {
	case 'R':
		c.Running++
	case 'S', 'I':
		c.Sleeping++
	case 'T', 't':
		c.Stopped++
	case 'D':
		c.Uninterruptible++
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
