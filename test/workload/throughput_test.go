package workload

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

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
	out, err := exec.CommandContext(t.Context(), bench, "--json", "--image", images.Database,
		"--endpoint", "shared="+endpoint, "--handler", "shared=crun", "--endpoint", "vm="+endpoint, "--handler", "vm=vm",
		"--warm-up", "0", "--rounds", "0", "--throughput", "3").Output()
	if err != nil {
		t.Fatalf("cribench: %v\n%s%s", err, out, stderrOf(err))
	}
	var results []struct {
		Endpoint string
		Rates    []struct {
			Name string
			P50  float64
			MiB  []float64
		}
	}
	if err := json.Unmarshal(out, &results); err != nil || len(results) != 2 {
		t.Fatalf("cribench wrote %s (%v)", out, err)
	}
	for _, r := range results {
		if len(r.Rates) != 8 {
			t.Errorf("%s: %d kinds of throughput, want 8", r.Endpoint, len(r.Rates))
		}
		for _, x := range r.Rates {
			t.Logf("%s: %s: %.1f MiB/s (%.1f)", r.Endpoint, x.Name, x.P50, x.MiB)
			if len(x.MiB) != 3 || x.P50 <= 0 {
				t.Errorf("%s: %s was measured %d times: %v", r.Endpoint, x.Name, len(x.MiB), x.MiB)
			}
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
