// Gotest runs go test and fails, besides, where a test skipped itself and skips.txt does not
// list it:
//
//	go run ./test/gotest -vet=off -race ./runtime/...
//
// It takes the arguments of go test and prints what that prints, as it comes. The last line
// is "N passed, N failed, N skipped": every test and subtest counts, a skip that is not
// listed as a failure, and so does a package that failed while none of its tests did. A run
// in which nothing passed has failed too.
package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/specs"
)

// skips lists the tests that may skip, one regular expression a line.
//
//go:embed skips.txt
var skips string

func main() {
	// Who ends make ends `go run`, which tells nobody. The signal belongs to this thread.
	runtime.LockOSThread()
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
	code := 1
	if err == nil {
		code, err = run(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	os.Exit(code)
}

// run runs go test with arguments, judges it and returns the exit code.
func run(args []string) (int, error) {
	list, err := specs.ParseList(skips)
	if err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	c := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	c.Stderr = os.Stderr
	// A group of its own: signals reach the tests by this program alone, however it gets them.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	events, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return 1, fmt.Errorf("start go test: %w", err)
	}
	go func() {
		for s := range signals {
			_ = unix.Kill(-c.Process.Pid, handedOn(s))
		}
	}()
	r := newReport(os.Stdout, os.Stderr, list, showsAll(args))
	readErr := r.read(events)
	_ = events.Close() // who writes on is ended by it
	err = c.Wait()
	signal.Stop(signals)
	close(signals)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || readErr != nil {
		r.finish(1)
		return 1, fmt.Errorf("run go test: %w", errors.Join(err, readErr))
	}
	return r.finish(c.ProcessState.ExitCode()), nil
}

// handedOn is what the tests are sent for a signal. go test waits for its tests only after
// an interrupt, which it leaves to them.
func handedOn(s os.Signal) unix.Signal {
	if s == unix.SIGQUIT { // for their stacks
		return unix.SIGQUIT
	}
	return unix.SIGINT
}

// showsAll tells whether arguments have go test print what tests that pass print.
func showsAll(args []string) bool {
	for _, a := range args {
		flag := strings.TrimLeft(a, "-")
		if flag == a {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "test."), "=")
		switch name {
		case "args":
			return false
		case "v":
			return value != "false"
		case "bench", "fuzz":
			return true
		}
	}
	return false
}
