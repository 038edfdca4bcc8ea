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
	for _, tool := range []Tool{Crictl(), critest(CritestVersion, "sha256:1"), critest(CritestVersion, "sha256:2"), critest(NextCritestVersion, "sha256:1"), Runc(), UlimitAdjuster(), Linter(), Kubelet(), EndToEnd(), Kubernetes("test/e2e"), Prometheus()[0], Collector("../..")} {
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

// TestSource: a program from a directory is built anew when something there has changed, and
// not if its go.sum lacks a hash.
func TestSource(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.com/m\n\ngo 1.26\n")
	write("main.go", "package main\n\nfunc main() { println(1) }\n")
	b := Builder{Cache: t.TempDir(), Say: t.Logf}
	tool := Tool{Name: "m", Source: dir, Package: "."}
	one, err := b.Build(t.Context(), tool)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Build(t.Context(), tool)
	if err != nil || again != one {
		t.Errorf("the same again is %s, %v", again, err)
	}
	write("main.go", "package main\n\nfunc main() { println(2) }\n")
	two, err := b.Build(t.Context(), tool)
	if err != nil || two == one {
		t.Errorf("after a change it is %s, %v", two, err)
	}
	write("go.mod", "module example.com/m\n\ngo 1.26\n\nrequire golang.org/x/sys v0.1.0\n")
	write("main.go", "package main\n\nimport _ \"golang.org/x/sys/unix\"\n\nfunc main() {}\n")
	if _, err := b.Build(t.Context(), tool); err == nil || !strings.Contains(err.Error(), "go.sum") {
		t.Errorf("without the hash: %v", err)
	}
}
