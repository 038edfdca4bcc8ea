package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which Main outside the node tells Main inside what it built.
const (
	binEnv    = "CRICKET_TEST_BIN"
	imagesEnv = "CRICKET_TEST_IMAGES"
	guestEnv  = "CRICKET_TEST_GUEST"
)

// Main is the suite's TestMain.
func Main(m *testing.M) {
	harness.Main("conformance suite", func() (int, error) {
		return harness.InNode(prepare, func(context.Context) (int, error) { return m.Run(), nil })
	})
}

func prepare(ctx context.Context) (map[string]string, error) {
	module, err := harness.ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(module, ".cache")
	say := func(f string, a ...any) { fmt.Printf(f+"\n", a...) }
	set, err := images.Build(ctx, images.Options{Cache: cache, Say: say})
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(cache, "conformance")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", bin+"/",
		"./cmd/cricket-monitor", "./test/conformance/testdata/clone")
	c.Dir = module
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w\n%s", err, msg)
	}
	return map[string]string{binEnv: bin, imagesEnv: set.Dir(), guestEnv: filepath.Join(module, "bin", "guest")}, nil
}
