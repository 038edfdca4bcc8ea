package diff

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which the part outside the node tells the part inside what it built.
const (
	binEnv        = "CRICKET_TEST_BIN" // cricketd, cricket-monitor, probe
	containerdEnv = "CRICKET_TEST_CONTAINERD"
	runcEnv       = "CRICKET_TEST_RUNC"
	imagesEnv     = "CRICKET_TEST_IMAGES"
	guestEnv      = "CRICKET_TEST_GUEST"
	corpusEnv     = "CRICKET_TEST_CORPUS" // only where all trees are compared
)

// world is what all tests share: TestMain makes it.
var world *endpoints

func TestMain(m *testing.M) {
	harness.Main("comparison with containerd", func() (int, error) {
		return harness.InNode(prepare, func(ctx context.Context) (code int, err error) {
			if world, err = newEndpoints(ctx); err != nil {
				return 1, err
			}
			defer func() { err = errors.Join(err, world.end()) }()
			return m.Run(), nil
		})
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
	bin := filepath.Join(cache, "diff")
	env := map[string]string{binEnv: bin, imagesEnv: set.Dir(), guestEnv: filepath.Join(module, "bin", "guest")}
	if env[containerdEnv], env[runcEnv], err = (tools.Builder{Cache: cache, Say: say}).Peer(ctx); err != nil {
		return nil, err
	}
	if os.Getenv(longEnv) != "" {
		corpus, err := images.BuildCorpus(ctx, images.Options{Cache: cache, Say: say})
		if err != nil {
			return nil, err
		}
		env[corpusEnv] = corpus.Dir()
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", bin+"/",
		"./cmd/cricketd", "./cmd/cricket-monitor", "./test/diff/probe")
	c.Dir, c.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w\n%s", err, msg)
	}
	return env, nil
}
