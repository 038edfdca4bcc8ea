package integration

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/test/harness"
)

// The variables that choose the hull of pods.
const (
	// HullEnv is "vm" where every pod is to be a virtual machine.
	HullEnv = "CRICKET_TEST_HULL"
	// kernelEnv is a kernel of the guest's image by name; empty leaves the choice to the
	// daemon.
	kernelEnv = "CRICKET_TEST_KERNEL"
	// guestEnv is the directory of the guest's image, found by Main.
	guestEnv = "CRICKET_TEST_GUEST"
)

// InVMs tells whether every pod is a virtual machine.
func InVMs() bool { return os.Getenv(HullEnv) == "vm" }

//go:embed not-in-vm.txt
var notInVM string

// applies skips a test that not-in-vm.txt names where pods are virtual machines.
func applies(t *testing.T) {
	t.Helper()
	if reason := whyNotInVM(notInVM, t.Name()); InVMs() && reason != "" {
		t.Skip("not in virtual machines: " + reason)
	}
}

// partApplies is applies for a part of a test that is no subtest.
func partApplies(t *testing.T, part string) bool {
	t.Helper()
	return !InVMs() || whyNotInVM(notInVM, t.Name()+" ["+part+"]") == ""
}

// whyNotInVM finds the reason that a list of lines "NAME: REASON" gives for a test. Names
// are those that go test prints.
func whyNotInVM(list, name string) string {
	for line := range strings.Lines(list) {
		if reason, ok := strings.CutPrefix(strings.TrimSpace(line), name+": "); ok {
			return reason
		}
	}
	return ""
}

// hull is how machines are made where pods are such.
type hull struct {
	// pool is how many are kept ready: in snapshots of a node, those come and go.
	pool int
	// strict boots each for its pod.
	strict bool
}

// isolation is the word for it in the configuration.
func (h hull) isolation() string {
	if h.strict {
		return "strict"
	}
	return "shared"
}

// hullArguments writes the configuration for the hull, and returns the daemon's arguments
// with it: a file that they name is taken up into it.
func hullArguments(p harness.Paths, h hull, args []string) ([]string, error) {
	if !InVMs() {
		return args, nil
	}
	var given []byte
	if i := slices.Index(args, "--config"); i >= 0 {
		var err error
		if given, err = os.ReadFile(args[i+1]); err != nil {
			return nil, err
		}
		args = slices.Delete(slices.Clone(args), i, i+2)
	}
	text := fmt.Sprintf("default_runtime = \"vm\"\n%s\n[vm]\nimage = %q\nkernel = %q\npool = %d\nisolation = %q\n",
		given, os.Getenv(guestEnv), os.Getenv(kernelEnv), h.pool, h.isolation())
	path := filepath.Join(p.Dir, "hull.toml")
	return append([]string{"--config", path}, args...), os.WriteFile(path, []byte(text), 0o644)
}

// settleTime is how long a node may take until all that is going on behind the requests
// has come to its end: in virtual machines, the making of the template of the others too.
func settleTime() time.Duration {
	if InVMs() {
		return vmSettle
	}
	return settle
}

// vmSettle is settleTime in virtual machines.
const vmSettle = 60 * time.Second

// quiet waits until the daemon makes no machine.
func (n *Node) quiet() {
	n.t.Helper()
	if InVMs() {
		n.templateMade()
	}
}

// templateMade waits until machines that are made behind the requests are there or gone.
func (n *Node) templateMade() {
	n.t.Helper()
	pool := filepath.Join(n.Paths.State, "vm", "pool")
	since := time.Now()
	Within(n.t, vmSettle, "the daemon has made its template", func() bool {
		if left, err := os.ReadDir(pool); err != nil || len(left) > 0 {
			since = time.Now()
		}
		return time.Since(since) > time.Second
	})
}
