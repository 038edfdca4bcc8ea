package layout

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Tests of a build of their own are run by a target: others pass them over without a word.
func TestTaggedTestsAreRun(t *testing.T) {
	root, all := packages(t)
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	tagged := regexp.MustCompile(`(?m)^//go:build (\w+)$`)
	found := 0
	for name, source := range testFiles(t, all) {
		m := tagged.FindSubmatch(source)
		if m == nil {
			continue
		}
		found++
		dir, err := filepath.Rel(root, filepath.Dir(name))
		if err != nil {
			t.Fatal(err)
		}
		run := regexp.MustCompile(`(?m)^\t\$\(GO_TEST\) .*-tags ` + string(m[1]) + ` .* \./` + regexp.QuoteMeta(dir) + `( |$)`)
		if !run.Match(makefile) {
			t.Errorf("%s has the tag %s, with which the Makefile does not test ./%s", name, m[1], dir)
		}
	}
	if found == 0 {
		t.Error("no test has a tag")
	}
}

// No skip goes unseen: go test does not run without its judge.
func TestSkipsAreJudged(t *testing.T) {
	root, _ := packages(t)
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(makefile, []byte("\nGO_TEST := go run ./test/gotest ")) {
		t.Error("GO_TEST of the Makefile is not test/gotest")
	}
	for _, line := range regexp.MustCompile(`(?m)^\t.*\bgo test .*$`).FindAll(makefile, -1) {
		t.Errorf("the Makefile runs go test itself:%s", line)
	}
}

// Every test that a document names as the one that holds a promise exists.
func TestPromisesAreHeldByTests(t *testing.T) {
	root, all := packages(t)
	known := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	for _, source := range testFiles(t, all) {
		for _, m := range declared.FindAllSubmatch(source, -1) {
			known[string(m[1])] = true
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)[/\\w]*`")
	for _, document := range documents(t, root) {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Fatal(err)
		}
		found := named.FindAllSubmatch(text, -1)
		if len(found) == 0 && document == "SPECIFICATION.md" {
			t.Errorf("%s names no test", document)
		}
		for _, m := range found {
			if !known[string(m[1])] {
				t.Errorf("%s:%d: there is no test %s", document, 1+bytes.Count(text[:bytes.Index(text, m[0])], []byte("\n")), m[1])
			}
		}
	}
}

// testFiles are the tests of packages, whatever their build tags, by their paths.
func testFiles(t *testing.T, all []pkg) map[string][]byte {
	t.Helper()
	sources := map[string][]byte{}
	for _, p := range all {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			if sources[name], err = os.ReadFile(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sources
}

// documents are the project's pages but the record of what ran, which tells of what was.
func documents(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			name = strings.TrimPrefix(name, root+"/")
			if name != "docs/verified.md" {
				names = append(names, name)
			}
		}
	}
	return names
}
