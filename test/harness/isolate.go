package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The stage of a program that isolates itself, in its environment.
const (
	stageEnv = "CRICKET_NODE_STAGE"
	dirEnv   = "CRICKET_NODE_DIR"
)

// Dir is the node's directory: on disk, empty at first, removed with the node. Only
// programs inside a node have one.
func Dir() string { return os.Getenv(dirEnv) }

// Isolate moves the program into a node of its own. Inside, it returns done == false
// and the program goes on. Outside, it returns done == true and the exit code of the
// program that ran inside. The node is gone when it returns outside, also after
// SIGINT or SIGTERM, and when this process is killed.
func Isolate() (code int, done bool, err error) {
	switch os.Getenv(stageEnv) {
	case "":
		code, err = outside()
		return code, true, err
	case "init":
		code, err = initProcess(Dir())
		return code, true, err
	default:
		return 0, false, nil
	}
}

func outside() (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("make a test node: only root can")
	}
	// Not /tmp, which may be a tmpfs: layers are mounted from files here.
	dir, err := os.MkdirTemp("/var/tmp", "cricket-node-")
	if err != nil {
		return 1, err
	}
	// Root in a pod's user namespace is another user here, and must get at its rootfs.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	groups, err := makeCgroups(filepath.Base(dir))
	defer func() { err = errors.Join(err, groups.remove(), os.RemoveAll(dir)) }()
	if err != nil {
		return 1, fmt.Errorf("make the node's cgroups: %w", err)
	}
	if err := saveSettings(dir); err != nil {
		return 1, fmt.Errorf("remember the kernel's settings: %w", err)
	}
	defer func() { err = errors.Join(err, restoreSettings(dir)) }()
	// The death signal of a child comes from the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := again("init", dir)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := c.Start(); err != nil {
		return 1, fmt.Errorf("start the node's first process: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case err = <-ended:
	case s := <-signals:
		_ = c.Process.Kill()
		<-ended
		return 130, fmt.Errorf("test node ended by %s", s)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 1, err
	}
	return c.ProcessState.ExitCode(), nil
}

// again is this program with the same arguments in the given stage.
func again(stage, dir string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.ExtraFiles, c.Env = handOn(append(os.Environ(), stageEnv+"="+stage, dirEnv+"="+dir))
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	return c
}

// initProcess is the first process of the node's PID namespace: it lays the node out,
// starts the program and reaps orphans until the program ends.
func initProcess(dir string) (int, error) {
	// The cgroup namespace belongs to this thread, and to what it starts.
	runtime.LockOSThread()
	if err := layOut(dir); err != nil {
		return 1, fmt.Errorf("lay out the test node: %w", err)
	}
	c := again("inside", dir)
	c.Env = append(c.Env, "TMPDIR="+filepath.Join(dir, "tmp"))
	if err := c.Start(); err != nil {
		return 1, err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for the program in the node: %w", err)
		case pid == c.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case pid == c.Process.Pid:
			return status.ExitStatus(), nil
		}
	}
}
