package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mainEnv is set in processes that are gotest.
const mainEnv = "CRICKET_TEST_GOTEST"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

// sample is a module with tests of all kinds; those of its directory waits wait for a signal
// and tell their process.
func sample(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module sample\n",
		"good/a_test.go":   "package good\nimport \"testing\"\nfunc TestGood(t *testing.T) { t.Log(\"unseen\") }\n",
		"skips/a_test.go":  "package skips\nimport \"testing\"\nfunc TestGood(t *testing.T) {}\nfunc TestSkips(t *testing.T) { t.Skip(\"today\") }\n",
		"broken/a_test.go": "package broken\nimport \"testing\"\nfunc TestBroken(t *testing.T) { undefined() }\n",
		"none/a.go":        "package none\n",
		"waits/a_test.go":  waiting,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const waiting = `package waits
import ("fmt"; "os"; "os/signal"; "syscall"; "testing"; "time")
func TestWaits(t *testing.T) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	fmt.Printf("process %d\n", os.Getpid())
	select {
	case s := <-c:
		fmt.Println("\ncleared up after", s)
	case <-time.After(30 * time.Second):
		fmt.Println("\nnobody has sent a signal")
	}
	os.Exit(3)
}
`

// gotest is the program with arguments in a directory.
func gotest(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), mainEnv+"=1", "GOFLAGS=", "GOWORK=off")
	return c
}

func TestRuns(t *testing.T) {
	dir := sample(t)
	for _, c := range []struct {
		args       string
		code       int
		has, hasNo []string
		errs       string
	}{
		{args: "-vet=off -count=1 ./good ./none", has: []string{"ok  \tsample/good\t", "?   \tsample/none\t[no test files]\n", "\n1 passed, 0 failed, 0 skipped\n"},
			hasNo: []string{"unseen", "TestGood"}},
		{args: "-vet=off -count=2 -v ./good", has: []string{"a_test.go:3: unseen\n--- PASS: TestGood", "ok  \tsample/good\t", "\n2 passed, 0 failed, 0 skipped\n"}},
		{args: "-vet=off ./skips", code: 1, has: []string{"ok  \tsample/skips\t", "sample/skips TestSkips\n  today\n1 passed, 1 failed, 0 skipped\n"}},
		// As the run before, from the cache.
		{args: "-vet=off ./skips", code: 1, has: []string{"(cached)", "sample/skips TestSkips\n  today\n1 passed, 1 failed, 0 skipped\n"}},
		{args: "-vet=off ./skips -run=TestGood", code: 0, has: []string{"\n1 passed, 0 failed, 0 skipped\n"}},
		{args: "-vet=off ./good ./broken", code: 1, has: []string{"ok  \tsample/good\t", "FAIL\tsample/broken [build failed]\n1 passed, 1 failed, 0 skipped\n"},
			errs: "undefined: undefined"},
		{args: "-p=none ./good", code: 2, has: []string{"0 passed, 1 failed, 0 skipped\n"}, errs: "invalid value"},
	} {
		t.Run(c.args, func(t *testing.T) {
			cmd := gotest(t, dir, strings.Fields(c.args)...)
			var out, errs strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &errs
			err := cmd.Run()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != c.code {
				t.Errorf("%v, want exit code %d", err, c.code)
			}
			for _, want := range c.has {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is not in %q", want, out.String())
				}
			}
			for _, no := range c.hasNo {
				if strings.Contains(out.String(), no) {
					t.Errorf("%q is in %q", no, out.String())
				}
			}
			if !strings.Contains(errs.String(), c.errs) || c.errs == "" && errs.Len() > 0 {
				t.Errorf("standard error is %q", errs.String())
			}
		})
	}
}

// Whatever ends the program, or the one that started it, the tests are interrupted, and it is
// there until they have cleared up.
func TestSignals(t *testing.T) {
	dir := sample(t)
	for name, end := range map[string]func(*exec.Cmd) error{
		"SIGINT":  func(c *exec.Cmd) error { return c.Process.Signal(unix.SIGINT) },
		"SIGTERM": func(c *exec.Cmd) error { return c.Process.Signal(unix.SIGTERM) },
		// As `go run`, whose child gets no signal.
		"parent": func(c *exec.Cmd) error { return c.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := gotest(t, dir, "-vet=off", "-count=1", "-v", "./waits")
			if name == "parent" {
				cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `"$0" "$@"; exit`, "/proc/" + strconv.Itoa(os.Getpid()) + "/exe"}, cmd.Args[1:]...)
			}
			out, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd.Stdout, cmd.SysProcAttr = w, &syscall.SysProcAttr{Setpgid: true}
			err = cmd.Start()
			w.Close()
			if err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			var pid int
			for pid == 0 {
				line, err := lines.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				if text, ok := strings.CutPrefix(line, "process "); ok {
					if pid, err = strconv.Atoi(strings.TrimSpace(text)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := end(cmd); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(lines) // ends with the last that holds the pipe
			if err != nil || !strings.Contains(string(rest), "cleared up after interrupt\n") || !strings.HasSuffix(string(rest), "0 passed, 1 failed, 0 skipped\n") {
				t.Errorf("printed %q, %v", rest, err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it has succeeded")
			}
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				t.Errorf("the test runs on: %v", err)
			}
		})
	}
}
