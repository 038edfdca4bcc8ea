package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// suite is the directory of the tests that record what they send.
const suite = "test/integration"

// tests are those that the source of the module at root has.
type tests struct {
	root     string
	packages map[string]string // directory to all its source
}

// exists finds a test by the name that go test prints, with "DIRECTORY:" before it for one
// that is not in the suite. Names of subtests have to stand in the package as strings.
func (t *tests) exists(name string) bool {
	dir, name, ok := strings.Cut(name, ":")
	if !ok {
		dir, name = suite, dir
	}
	source, err := t.source(dir)
	if err != nil {
		return false
	}
	parts := strings.Split(name, "/")
	if !strings.Contains(source, "\nfunc "+parts[0]+"(t *testing.T)") {
		return false
	}
	for _, part := range parts[1:] {
		words := strings.ReplaceAll(regexp.QuoteMeta(part), "_", "[_ ]")
		if !regexp.MustCompile(`"` + words + `"`).MatchString(source) {
			return false
		}
	}
	return true
}

func (t *tests) source(dir string) (string, error) {
	if text, ok := t.packages[dir]; ok {
		return text, nil
	}
	names, err := filepath.Glob(filepath.Join(t.root, dir, "*.go"))
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("read tests: %w", err)
		}
		all.Write(data)
	}
	if t.packages == nil {
		t.packages = map[string]string{}
	}
	t.packages[dir] = all.String()
	return all.String(), nil
}
