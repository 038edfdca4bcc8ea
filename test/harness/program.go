package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// Main runs a test program and exits with its code; an error is printed under the
// program's name and never exits with 0.
func Main(name string, run func() (int, error)) {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Prepare builds what the part inside the private node needs, with the machine's own
// network, and returns the variables that tell that part where it is.
type Prepare func(ctx context.Context) (env map[string]string, err error)

// InNode runs a test program in two parts: prepare outside of the private node, and
// inside in it. Both contexts end with an interrupt.
func InNode(prepare Prepare, inside func(context.Context) (int, error)) (int, error) {
	if Dir() == "" {
		if err := Outside(prepare); err != nil {
			return 1, err
		}
	}
	code, done, err := Isolate()
	if done || err != nil {
		return code, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return inside(ctx)
}

// Outside runs prepare and puts its variables into the environment.
func Outside(prepare Prepare) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop() // Isolate looks after signals itself
	env, err := prepare(ctx)
	if err != nil {
		return err
	}
	for k, v := range env {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return nil
}

// ModuleRoot is the directory of the module that the working directory belongs to.
func ModuleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
