package layout

import (
	"bufio"
	"bytes"
	"encoding/json"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cricket-cri/cricket"

// maxLines is how long a file may be; a longer one wants to be two.
const maxLines = 400

// longer lists files that may be longer, each with the reason.
var longer = map[string]string{}

// topLevel is the whole first level of the tree, besides hidden directories and files.
var topLevel = []string{"bin", "cmd", "cri", "docs", "hack", "runtime", "sandbox", "test", "vmsandbox"}

// mayImport says which of our top-level packages each may import. Those not listed (cmd,
// test and hack) wire or test and may import all.
var mayImport = map[string][]string{
	"cri":       {"cri", "sandbox", "runtime"},
	"vmsandbox": {"vmsandbox", "sandbox", "runtime"},
	"sandbox":   {"sandbox", "runtime"},
	"runtime":   {"runtime"},
}

// vague are names that say nothing about what is in a package.
var vague = []string{"util", "utils", "helper", "helpers", "common", "manager", "misc", "shared", "base"}

type pkg struct {
	ImportPath, Dir, Name              string
	GoFiles, TestGoFiles, XTestGoFiles []string
	IgnoredGoFiles                     []string
	Imports, TestImports, XTestImports []string
}

// inside is the package's path within the module.
func (p pkg) inside() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func (p pkg) top() string {
	top, _, _ := strings.Cut(p.inside(), "/")
	return top
}

func packages(t *testing.T) (root string, all []pkg) {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	root = strings.TrimSpace(string(out))
	c := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,GoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles,Imports,TestImports,XTestImports", "./...")
	c.Dir = root
	if out, err = c.Output(); err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(out))
	for d.More() {
		var p pkg
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 5 {
		t.Fatalf("go list found %d packages", len(all))
	}
	return root, all
}

func TestTopLevel(t *testing.T) {
	root, _ := packages(t)
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s/ is not one of the top-level directories %v", e.Name(), topLevel)
		}
	}
}

func TestImports(t *testing.T) {
	_, all := packages(t)
	for _, p := range all {
		for _, problem := range importProblems(p) {
			t.Error(problem)
		}
	}
}

// importProblems lists what the package imports and may not.
func importProblems(p pkg) []string {
	var problems []string
	imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
	slices.Sort(imports)
	for _, i := range slices.Compact(imports) {
		if strings.HasPrefix(i, "k8s.io/cri-api") && !slices.Contains([]string{"cri", "cmd", "test"}, p.top()) {
			problems = append(problems, p.inside()+" imports "+i+": only cri and clients of the API may")
		}
		path, ours := strings.CutPrefix(i, module+"/")
		if !ours {
			continue
		}
		top, _, _ := strings.Cut(path, "/")
		if allowed, ok := mayImport[p.top()]; ok && !slices.Contains(allowed, top) {
			problems = append(problems, p.inside()+" imports "+path+": "+p.top()+" may import "+strings.Join(allowed, ", "))
		}
		if top == "vmsandbox" && p.top() != "cmd" && p.top() != "vmsandbox" && p.top() != "test" {
			problems = append(problems, p.inside()+" imports "+path+": only cmd may")
		}
	}
	return problems
}

func TestImportProblems(t *testing.T) {
	for _, c := range []struct {
		importer, imported string
		bad                bool
	}{
		{"cri/store", "sandbox", false},
		{"cri", "runtime/image", false},
		{"cri", "vmsandbox", true},
		{"sandbox/cni", "runtime", false},
		{"sandbox", "cri", true},
		{"sandbox", "vmsandbox", true},
		{"vmsandbox", "sandbox", false},
		{"vmsandbox", "cri/store", true},
		{"runtime/spec", "runtime/oci", false},
		{"runtime/spec", "sandbox", true},
		{"cmd/cricketd", "vmsandbox", false},
	} {
		p := pkg{ImportPath: module + "/" + c.importer, Imports: []string{module + "/" + c.imported}}
		if got := len(importProblems(p)) > 0; got != c.bad {
			t.Errorf("%s imports %s: problem %v, want %v", c.importer, c.imported, got, c.bad)
		}
	}
	for importer, bad := range map[string]bool{"cri": false, "cmd/cribench": false, "test/x": false, "runtime": true, "sandbox/cni": true, "hack/x": true} {
		p := pkg{ImportPath: module + "/" + importer, Imports: []string{"k8s.io/cri-api/pkg/apis/runtime/v1"}}
		if got := len(importProblems(p)) > 0; got != bad {
			t.Errorf("%s imports cri-api: problem %v, want %v", importer, got, bad)
		}
	}
}

func TestPackages(t *testing.T) {
	_, all := packages(t)
	for _, p := range all {
		if slices.Contains(vague, filepath.Base(p.Dir)) || slices.Contains(vague, p.Name) {
			t.Errorf("package %s: the name says nothing about what is in it", p.inside())
		}
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		if n := docs(t, p); n != 1 {
			t.Errorf("package %s has %d package comments, want 1", p.inside(), n)
		}
	}
}

// docs counts the files with a package comment.
func docs(t *testing.T, p pkg) int {
	n := 0
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
			n++
		}
	}
	return n
}

func TestFileLength(t *testing.T) {
	root, all := packages(t)
	seen := map[string]bool{}
	for _, p := range all {
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles, p.IgnoredGoFiles) {
			path, err := filepath.Rel(root, filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			seen[path] = true
			if n := lines(t, filepath.Join(root, path)); n > maxLines && longer[path] == "" {
				t.Errorf("%s has %d lines, want at most %d", path, n, maxLines)
			}
		}
	}
	for path := range longer {
		if !seen[path] {
			t.Errorf("%s is listed as long and does not exist", path)
		}
	}
}

func lines(t *testing.T, path string) int {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		n++
	}
	return n
}
