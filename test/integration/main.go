package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/coverage/field"
	"github.com/cricket-cri/cricket/test/criu"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// The variables by which Main outside the node tells Main inside what it built.
const (
	binEnv    = "CRICKET_TEST_BIN"
	crictlEnv = "CRICKET_TEST_CRICTL"
	imagesEnv = "CRICKET_TEST_IMAGES"
	debianEnv = "CRICKET_TEST_DEBIAN" // only with MainWithDebian
	toolEnv   = "CRICKET_TEST_TOOL_"  // and a name; see Tool
	// Only with Main: CRIU in two versions.
	newCRIUEnv = "CRICKET_TEST_CRIU"
	oldCRIUEnv = "CRICKET_TEST_OLD_CRIU"
)

// RecordEnv names the file that the suite writes what its tests did with the fields of the
// CRI to; empty for none. See test/coverage.
const RecordEnv = "CRICKET_TEST_RECORD"

// recorder is made by Main, and nil where nothing is recorded.
var recorder *field.Recorder

// programs are what the suite starts, built with failpoints.
var programs = []string{"./cmd/cricketd", "./cmd/cricket-monitor"}

// Main is the suite's TestMain.
func Main(m *testing.M) {
	harness.Main("integration suite", func() (int, error) {
		return harness.InNode(prepareWithOthers, func(context.Context) (int, error) {
			recorder = field.NewRecorder(os.Getenv(RecordEnv))
			return m.Run(), recorder.Close()
		})
	})
}

// MainWithDebian is Main for a suite whose registry serves images of Debian's trees too.
func MainWithDebian(m *testing.M) {
	harness.Main("suite with Debian's images", func() (int, error) {
		return harness.InNode(prepareDebian, func(context.Context) (int, error) { return m.Run(), nil })
	})
}

// MainWithTools is Main for a suite that needs further programs: list names them, by the
// directory of the module. Tool tells where each is.
func MainWithTools(m *testing.M, list func(module string) []tools.Tool) {
	harness.Main("suite with tools", func() (int, error) {
		return harness.InNode(func(ctx context.Context) (map[string]string, error) {
			return prepareTools(ctx, list)
		}, func(context.Context) (int, error) { return m.Run(), nil })
	})
}

// Tool is the path of a program that MainWithTools has built, or Main: runc and the plugin of
// NRI's.
func Tool(name string) string { return os.Getenv(toolEnv + name) }

func prepareTools(ctx context.Context, list func(module string) []tools.Tool) (map[string]string, error) {
	env, err := prepare(ctx)
	if err != nil {
		return nil, err
	}
	module, err := harness.ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	b := tools.Builder{Cache: filepath.Join(module, ".cache"), Say: func(f string, a ...any) { fmt.Printf(f+"\n", a...) }}
	for _, t := range list(module) {
		if env[toolEnv+t.Name], err = b.Build(ctx, t); err != nil {
			return nil, err
		}
	}
	return env, nil
}

// prepareWithOthers is prepare with programs of other projects that some tests need.
func prepareWithOthers(ctx context.Context) (map[string]string, error) {
	env, err := prepareTools(ctx, func(string) []tools.Tool { return []tools.Tool{tools.Runc(), tools.UlimitAdjuster()} })
	if err != nil {
		return nil, err
	}
	module, err := harness.ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	cache := filepath.Join(module, ".cache")
	say := func(f string, a ...any) { fmt.Printf(f+"\n", a...) }
	for name, release := range map[string]string{newCRIUEnv: criu.New, oldCRIUEnv: criu.Old} {
		if env[name], err = criu.Install(ctx, cache, release, say); err != nil {
			return nil, err
		}
	}
	return env, nil
}

func prepareDebian(ctx context.Context) (map[string]string, error) {
	env, err := prepare(ctx)
	if err != nil {
		return nil, err
	}
	module, err := harness.ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	set, err := images.BuildDebian(ctx, images.Options{
		Cache: filepath.Join(module, ".cache"), Say: func(f string, a ...any) { fmt.Printf(f+"\n", a...) },
	})
	if err != nil {
		return nil, err
	}
	env[debianEnv] = set.Dir()
	return env, nil
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
	crictl, err := tools.Builder{Cache: cache, Say: say}.Build(ctx, tools.Crictl())
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(cache, "integration")
	return map[string]string{
		binEnv: bin, crictlEnv: crictl, imagesEnv: set.Dir(), guestEnv: filepath.Join(module, "bin", "guest"),
	}, buildPrograms(ctx, module, bin)
}

func buildPrograms(ctx context.Context, module, bin string) error {
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
	return nil
}
