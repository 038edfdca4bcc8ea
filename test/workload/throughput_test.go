package workload

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
	"github.com/cricket-cri/cricket/test/images"
)

// TestThroughput has cribench measure both kinds of pod in turn. How fast they are is for
// its reader; that everything goes through, in both, is what is tested.
func TestThroughput(t *testing.T) {
	n := start(t, images.Database)
	bench := filepath.Join(t.TempDir(), "cribench")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", bench, "github.com/cricket-cri/cricket/cmd/cribench")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build cribench: %v\n%s", err, out)
	}
	endpoint := "unix://" + n.Paths.Socket
	out, err := exec.CommandContext(t.Context(), bench, "--json", "-", "--image", images.Database,
		"--endpoint", "shared="+endpoint, "--handler", "shared=crun", "--endpoint", "vm="+endpoint, "--handler", "vm=vm",
		"--measure", "files,network,log,stream", "--repeat", "3").Output()
	if err != nil {
		t.Fatalf("cribench: %v\n%s%s", err, out, stderrOf(err))
	}
	run, err := figures.Read(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range run.Endpoints {
		rates := 0
		for _, s := range e.Series {
			if s.Unit != figures.Rate {
				continue
			}
			rates++
			t.Logf("%s: %s: %.1f MiB/s (%.1f)", e.Name, s.Name, s.P50, s.Samples)
			if len(s.Samples) != 3 || s.Min <= 0 {
				t.Errorf("%s: %s was measured %d times: %v", e.Name, s.Name, len(s.Samples), s.Samples)
			}
		}
		if rates != 11 {
			t.Errorf("%s: %d kinds of throughput, want 11", e.Name, rates)
		}
	}
}

func stderrOf(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}
