package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which Main outside the node tells Main inside what it built.
const (
	binEnv    = "CRICKET_TEST_BIN"
	crictlEnv = "CRICKET_TEST_CRICTL"
	imagesEnv = "CRICKET_TEST_IMAGES"
)

// programs are what the suite starts, built with failpoints.
var programs = []string{"./cmd/cricketd", "./cmd/cricket-monitor"}

// Main is the suite's TestMain.
func Main(m *testing.M) {
	if harness.Dir() == "" {
		if err := prepare(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "prepare the integration suite:", err)
			os.Exit(1)
		}
	}
	code, done, err := harness.Isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if !done && err == nil {
		code = m.Run()
	}
	os.Exit(code)
}

func prepare(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	module := strings.TrimSpace(string(out))
	cache := filepath.Join(module, ".cache")
	say := func(f string, a ...any) { fmt.Printf(f+"\n", a...) }
	set, err := images.Build(ctx, images.Options{Module: module, Cache: cache, Say: say})
	if err != nil {
		return err
	}
	crictl, err := tools.Builder{Cache: cache, Say: say}.Build(ctx, tools.Crictl())
	if err != nil {
		return err
	}
	bin := filepath.Join(cache, "integration")
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags=failpoint", "-o", bin + "/"}
	cgo := "CGO_ENABLED=0"
	if os.Getenv("CRICKET_TEST_RACE") != "" {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "go", append(args, programs...)...)
	c.Dir = module
	c.Env = append(os.Environ(), cgo)
	if msg, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build the daemon: %w\n%s", err, msg)
	}
	for k, v := range map[string]string{binEnv: bin, crictlEnv: crictl, imagesEnv: set.Dir()} {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return nil
}
