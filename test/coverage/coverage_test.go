package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/test/coverage/field"
)

// Every field of the API has an entry, every entry a field, and every test is there.
func TestTable(t *testing.T) {
	entries, requests, answers := read(t)
	source := tests{root: "../.."}
	for _, p := range problems(entries, requests, answers, source.exists) {
		t.Error(p)
	}
}

func TestDocumentIsCurrent(t *testing.T) {
	entries, requests, answers := read(t)
	data, err := os.ReadFile(filepath.Join("../..", document))
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != page(entries, requests, answers) {
		t.Errorf("%s is not what the table says: make cri-coverage", document)
	}
}

func read(t *testing.T) (entries []entry, requests, answers []string) {
	t.Helper()
	entries, err := table()
	if err != nil {
		t.Fatal(err)
	}
	return entries, field.Requests(), field.Answers()
}

// What is said of virtual machines is held by a test that runs there: it is found out here, and
// not an hour later, when it was passed over.
func TestTestsRunInVMs(t *testing.T) {
	entries, _, _ := read(t)
	list, err := os.ReadFile("../integration/not-in-vm.txt")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(Test[^ :]+): `).FindAllStringSubmatch(string(list), -1) {
		elsewhere[m[1]] = true
	}
	if len(elsewhere) == 0 {
		t.Fatal("the list names no test")
	}
	runs := func(test string) bool {
		for name := test; ; name = name[:strings.LastIndexByte(name, '/')] {
			if elsewhere[name] || !isIntegration(test) {
				return false
			}
			if !strings.Contains(name, "/") {
				return true
			}
		}
	}
	for _, e := range entries {
		if e.vm != unproven && e.vm != ignored && e.vm != absent && !slices.ContainsFunc(e.tests, runs) {
			t.Errorf("%s: %s is %s in virtual machines, but none of %q runs there", e.where, e.field, e.vm, e.tests)
		}
	}
}

// What a table may have wrong is found.
func TestProblems(t *testing.T) {
	requests, answers := []string{"A.a", "A.b.c", "A.b.d"}, []string{"B.a"}
	const good = "A.a | honoured | honoured | TestX |\nA.b.* | refused | ignored | TestX | why\nB.a | answered | absent | TestX | why\n"
	for name, c := range map[string]struct{ from, to, want string }{
		"nothing":          {"", "", ""},
		"no entry":         {"A.a |", "# A.a |", "A.a has no entry"},
		"no field":         {"A.a |", "A.{a,z} |", "there is no field A.z"},
		"twice":            {"A.a |", "A.{a,a} |", "A.a has 2 entries"},
		"no test":          {"honoured | TestX |", "honoured | |", "honoured without a test"},
		"an unknown test":  {"honoured | TestX |", "honoured | TestY |", "there is no test TestY"},
		"another's test":   {"honoured | TestX |", "honoured | cri:TestX |", "honoured without a test"},
		"no reason":        {"TestX | why\nB", "TestX |\nB", "ignored without a note"},
		"a part of it":     {"B.a |", "A.b.c | ignored | ignored | | why\nB.a |", ""},
		"a word":           {"| honoured | TestX |", "| perhaps | TestX |", `status "perhaps"`},
		"another's word":   {"| answered |", "| honoured |", `status "honoured"`},
		"several honoured": {"| refused |", "| honoured |", "honoured for several fields at once"},
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := parse("x", strings.Replace(good, c.from, c.to, 1))
			if err != nil {
				t.Fatal(err)
			}
			got := problems(entries, requests, answers, func(test string) bool { return strings.HasSuffix(test, "TestX") })
			if all := strings.Join(got, "\n"); c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("the problems are %q, want %q", all, c.want)
			}
		})
	}
	if _, err := parse("x", "A.a | honoured\n"); err == nil {
		t.Error("a line without columns is taken")
	}
}

// What a run does not bear out is found.
func TestBroken(t *testing.T) {
	entries, err := parse("x", "A.a | honoured | honoured | TestX/one |\nA.b.* | refused | ignored | TestY | why\nB.a | answered | absent | TestX | why\n")
	if err != nil {
		t.Fatal(err)
	}
	run := func() field.Recording {
		return field.Recording{
			"TestX":     {Outcome: "pass"},
			"TestX/one": {Outcome: "pass", Honoured: []string{"A", "A.a"}, Answered: []string{"B.a"}},
			"TestY":     {Outcome: "pass", Refused: []string{"A.b"}},
		}
	}
	for name, c := range map[string]struct {
		hull   string
		change func(field.Recording)
		want   string
	}{
		"all is well":        {"kernel", func(field.Recording) {}, ""},
		"in the other hull":  {"vm", func(r field.Recording) { delete(r, "TestY") }, ""},
		"missing":            {"vm", func(r field.Recording) { delete(r, "TestX/one") }, "TestX/one was not run"},
		"skipped":            {"vm", func(r field.Recording) { r["TestX/one"] = field.Use{Outcome: "skip"} }, "TestX/one was skipped"},
		"failed":             {"vm", func(r field.Recording) { r["TestX/one"] = field.Use{Outcome: "fail", Honoured: []string{"A.a"}} }, "TestX/one failed"},
		"never sent":         {"vm", func(r field.Recording) { r["TestX/one"] = field.Use{Outcome: "pass"} }, "never had it"},
		"never answered":     {"kernel", func(r field.Recording) { r["TestX/one"] = field.Use{Outcome: "pass", Honoured: []string{"A.a"}} }, "B.a is answered"},
		"refused namelessly": {"kernel", func(r field.Recording) { r["TestY"] = field.Use{Outcome: "pass"} }, "A.b.* is refused"},
		"refused and honoured": {"kernel", func(r field.Recording) { r["TestZ"] = field.Use{Outcome: "pass", Honoured: []string{"A.b.c"}} },
			"TestZ sent A.b.c and was answered"},
		"honoured by the other hull": {"kernel", func(r field.Recording) { r["TestVirtualZ"] = field.Use{Outcome: "pass", Honoured: []string{"A.b.c"}} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := run()
			c.change(r)
			if all := strings.Join(broken(entries, c.hull, r), "\n"); c.want == "" && all != "" || !strings.Contains(all, c.want) {
				t.Errorf("it says %q, want %q", all, c.want)
			}
		})
	}
}
