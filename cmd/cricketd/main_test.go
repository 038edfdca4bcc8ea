package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

// mainEnv is set in the process that is cricketd.
const mainEnv = "CRICKET_TEST_MAIN"

// TestStandardErrorIsGone: a message that nobody reads does not end the program.
func TestStandardErrorIsGone(t *testing.T) {
	if os.Getenv(mainEnv) != "" {
		os.Args = []string{"cricketd", "--no-such-flag"}
		main()
		return
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	c := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	c.Env = append(os.Environ(), mainEnv+"=1")
	c.Stderr = w
	var exit *exec.ExitError
	if err := c.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want the exit code of an error", err)
	}
}
