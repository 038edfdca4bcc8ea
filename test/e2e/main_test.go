package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

// The variables that choose what the suite runs on.
const (
	runtimeEnv = "CRICKET_TEST_RUNTIME" // cricket, unless it says containerd
	hullEnv    = "CRICKET_TEST_HULL"    // kernel or vm; both, unless it is set
)

// root is the project's directory: tests run in their package's.
const root = "../.."

// shared is the cluster of all tests: a start takes longer than most of them.
var shared *cluster.Cluster

func TestMain(m *testing.M) {
	harness.Main("e2e", func() (int, error) {
		return harness.InNode(prepare, func(ctx context.Context) (int, error) { return inside(ctx, m) })
	})
}

func say(format string, a ...any) { fmt.Printf(format+"\n", a...) }

func chosenRuntime() string {
	if r := os.Getenv(runtimeEnv); r != "" {
		return r
	}
	return cluster.Cricket
}

func prepare(ctx context.Context) (map[string]string, error) {
	return cluster.Prepare(ctx, cluster.Sources{
		Runtime: chosenRuntime(), Cricketd: filepath.Join(root, "bin/cricketd"), Cache: filepath.Join(root, ".cache"), Say: say,
	})
}

func inside(ctx context.Context, m *testing.M) (code int, err error) {
	logs, err := filepath.Abs(filepath.Join(root, ".cache/reports/e2e"))
	if err != nil {
		return 1, err
	}
	if err := os.RemoveAll(logs); err != nil {
		return 1, err
	}
	kubelet, err := collectAlways()
	if err != nil {
		return 1, err
	}
	shared, err = cluster.Start(ctx, cluster.Options{Logs: logs, Say: say, Kubelet: kubelet})
	if err != nil {
		return 1, fmt.Errorf("%w; the logs are in %s", err, logs)
	}
	defer func() { err = errors.Join(err, shared.Close()) }()
	return m.Run(), nil
}
