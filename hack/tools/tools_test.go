package tools

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStaged(t *testing.T) {
	dir := t.TempDir()
	const mod = `module example.com/m

go 1.26

require (
	example.com/a v0.0.0
	example.com/b v1.0.0
)

replace (
	example.com/a => ./staging/a
	example.com/b => example.com/c v1.2.0
	example.com/unneeded => ./staging/unneeded
)
`
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := staged(t.Context(), dir)
	if err != nil || !slices.Equal(got, []string{"example.com/a"}) {
		t.Errorf("staged modules are %q (%v), want example.com/a", got, err)
	}
}

func TestKeys(t *testing.T) {
	seen := map[string]string{}
	critest := func(version, digest string) Tool {
		tool, err := Critest(version, digest)
		if err != nil {
			t.Fatal(err)
		}
		return tool
	}
	for _, tool := range []Tool{Crictl(), critest(CritestVersion, "sha256:1"), critest(CritestVersion, "sha256:2"), critest(NextCritestVersion, "sha256:1"), Runc(), UlimitAdjuster(), Linter(), Kubelet(), EndToEnd(), Kubernetes("test/e2e")} {
		key, err := tool.key()
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%s and %s share the key %s", tool.Name, other, key)
		}
		seen[key] = tool.Name
	}
}

func TestCritestUnknown(t *testing.T) {
	_, err := Critest("1.35.0", "sha256:1")
	if err == nil || !strings.Contains(err.Error(), CritestVersion) || !strings.Contains(err.Error(), NextCritestVersion) {
		t.Errorf("a version that is not known: %v", err)
	}
}

func TestKubeletSaysItsVersion(t *testing.T) {
	k := Kubelet()
	for _, want := range []string{"component-base/version.gitVersion=v" + kubernetes, "client-go/pkg/version.gitMinor=37"} {
		if !strings.Contains(k.LDFlags, want) {
			t.Errorf("the linker's flags are %q, want %s", k.LDFlags, want)
		}
	}
	if k.Staging != "v0.37.2" {
		t.Errorf("the staging modules' version is %s", k.Staging)
	}
}
