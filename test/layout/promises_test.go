package layout

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Every test that a document names as the one that holds a promise exists.
func TestPromisesAreHeldByTests(t *testing.T) {
	root, all := packages(t)
	known := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	for _, p := range all {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*_test.go")) // whatever their build tags
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range declared.FindAllSubmatch(source, -1) {
				known[string(m[1])] = true
			}
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z]\\w*)[/\\w]*`")
	for _, document := range []string{"SPECIFICATION.md"} {
		text, err := os.ReadFile(filepath.Join(root, document))
		if err != nil {
			t.Fatal(err)
		}
		found := named.FindAllSubmatch(text, -1)
		if len(found) == 0 {
			t.Errorf("%s names no test", document)
		}
		for _, m := range found {
			if !known[string(m[1])] {
				t.Errorf("%s:%d: there is no test %s", document, 1+bytes.Count(text[:bytes.Index(text, m[0])], []byte("\n")), m[1])
			}
		}
	}
}
