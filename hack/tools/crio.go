package tools

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// CrioVersion is the version of CRI-O that Cricket is measured beside.
const CrioVersion = "1.34.0"

const crioSum = "h1:ux2URwAyENy5e5hD9Z95tshdfy98eqatZk0fxx3rhuk="

// Crio is the runtime of OpenShift.
func Crio() Tool {
	return Tool{
		Name: "crio", Module: "github.com/cri-o/cri-o@v" + CrioVersion, Sum: crioSum, Package: "./cmd/crio", Cgo: true,
		Tags: "containers_image_ostree_stub containers_image_openpgp exclude_graphdriver_btrfs exclude_graphdriver_devicemapper seccomp",
		Changes: []Change{{
			File:   "server/sandbox_run.go",
			Old:    "PodInfraOOMAdj int = -998",
			New:    "PodInfraOOMAdj int = 0",
			Reason: "a machine of the tests may lack CAP_SYS_RESOURCE, and no pod would start",
		}},
	}
}

// Crio builds CRI-O and pinns, the program that makes its namespaces, and returns a directory
// that holds both. It needs what hack/setup bench installs.
func (b Builder) Crio(ctx context.Context) (string, error) {
	crio, err := b.Build(ctx, Crio())
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(crio)
	out := filepath.Join(dir, "pinns")
	if _, err := os.Stat(out); err == nil {
		return dir, nil
	}
	src := filepath.Join(filepath.Dir(filepath.Dir(dir)), "src", "pinns")
	defer func() { _ = os.RemoveAll(src) }() // only space; the next build begins with it
	if err := Crio().unpack(ctx, src); err != nil {
		return "", fmt.Errorf("unpack CRI-O: %w", err)
	}
	c := exec.CommandContext(ctx, "make", "-C", filepath.Join(src, "pinns"))
	if text, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pinns: %w\n%s", err, text)
	}
	return dir, os.Rename(filepath.Join(src, "bin", "pinns"), out)
}
