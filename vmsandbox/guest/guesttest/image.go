package guesttest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Image builds the guest from the source as it is, unless that is done already, and gives
// the directory that it is in.
func Image(t testing.TB) string {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatalf("build the guest: %v", err)
	}
	return dir
}

// kernel is one of the manifest's.
type kernel struct{ Name, Kernel, Initrd, Cmdline string }

// kernelVariable names the kernel that tests run on that ask for none.
const kernelVariable = "CRICKET_TEST_GUEST_KERNEL"

// kernelOf finds a kernel in the manifest; empty is Debian's, unless the variable of the
// environment says otherwise.
func kernelOf(image, name string) (kernel, error) {
	text, err := os.ReadFile(filepath.Join(image, "manifest.json"))
	if err != nil {
		return kernel{}, err
	}
	var m struct{ Kernels []kernel }
	if err := json.Unmarshal(text, &m); err != nil {
		return kernel{}, err
	}
	if name == "" {
		name = os.Getenv(kernelVariable)
	}
	if name == "" {
		name = "debian"
	}
	for _, k := range m.Kernels {
		if k.Name == name {
			return k, nil
		}
	}
	return kernel{}, fmt.Errorf("no kernel %q in %s: make guest-kernel builds the small one", name, image)
}

// built builds once in a process.
var built = sync.OnceValues(func() (string, error) { //nolint:gochecknoglobals // because tests of a package share it
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", err
	}
	root := strings.TrimSpace(string(out))
	cmd := exec.Command("go", "run", "./hack/guest", "-quiet", "image")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return filepath.Join(root, "bin", "guest"), nil
})
