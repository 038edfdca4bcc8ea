package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/test/specs"
)

// entryForm is that of an expression: a directory, tests, and the message of their skip.
var entryForm = regexp.MustCompile(`^\^(\S+) (\S+): (.+)$`)

// testName is a test in an expression; Test alone stands for all.
var testName = regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz)\w*`)

// What the list names is there, under any condition: an entry whose test is gone, or skips
// with other words, would stay for good.
func TestListIsTrue(t *testing.T) {
	conditions := regexp.MustCompile(`(?m)^@.*$`)
	list, err := specs.ParseList(conditions.ReplaceAllString(skips, ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("the list is empty")
	}
	for _, e := range list {
		for _, p := range problems("../..", e) {
			t.Errorf("%s: %s", e.Expr, p)
		}
	}
}

// problems are what is wrong with an entry for the module at root.
func problems(root string, e specs.Entry) (all []string) {
	m := entryForm.FindStringSubmatch(e.Expr.String())
	if m == nil {
		return []string{"it is not ^DIRECTORY TEST: MESSAGE"}
	}
	dir, tests, message := m[1], m[2], m[3]
	if e.Reason == "" {
		all = append(all, "there is no reason")
	}
	source := sources(filepath.Join(root, dir))
	names := testName.FindAllString(tests, -1)
	if len(names) == 0 {
		all = append(all, "it names no test")
	}
	for _, name := range names {
		if name != "Test" && !strings.Contains(source, "\nfunc "+name+"(") {
			all = append(all, "there is no "+name)
		}
	}
	for _, part := range strings.Split(tests, "/")[1:] {
		if regexp.QuoteMeta(part) == part && !strings.Contains(source, `"`+part+`"`) {
			all = append(all, "there is no subtest "+part)
		}
	}
	if says, _ := regexp.MustCompile(message).LiteralPrefix(); says == "" || !strings.Contains(source, says) {
		all = append(all, "nothing says that")
	}
	return all
}

// sources are all Go files of a directory, "" if there is none.
func sources(dir string) string {
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	var all strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return ""
		}
		all.Write(text)
	}
	return all.String()
}

func TestProblems(t *testing.T) {
	root := t.TempDir()
	const source = "package a\nfunc TestOne(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Skip(\"no such thing\") }) }\n"
	if err := os.Mkdir(filepath.Join(root, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a", "a_test.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]int{
		"^a TestOne: no such # why": 0, "^a TestOne/sub: no such # why": 0, `^a TestOne/\S+: no such # why`: 0, `^a Test\S+: no such # why`: 0,
		"^a TestOne: no such": 1, "a TestOne: no such # why": 1, "^a TestOne # why": 1, "^a : no such # why": 1,
		"^a TestOn: no such # why": 1, "^a (TestOne|TestTwo): no such # why": 1, "^a (TestOne/sub|TestTwo/sub): no such # why": 1, "^a TestOne/other: no such # why": 1,
		"^a TestOne: another # why": 1, "^a TestOne: .*such # why": 1, "^b TestOne: no such # why": 2, `^a \S+: no such # why`: 1,
	} {
		list, err := specs.ParseList(line)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v, %v", line, list, err)
		}
		if got := problems(root, list[0]); len(got) != want {
			t.Errorf("%s: %q, want %d problems", line, got, want)
		}
	}
}
