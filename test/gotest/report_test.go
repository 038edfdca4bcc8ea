package main

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/test/specs"
)

// stream makes events of lines "ACTION PACKAGE [TEST] [>OUTPUT]", whose output gets its end of
// line unless it ends in \c. Other lines are no events, and stay.
func stream(t *testing.T, lines string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(strings.TrimPrefix(lines, "\n")) {
		left, output, hasOutput := strings.Cut(strings.TrimSuffix(line, "\n"), " >")
		words := strings.Fields(left)
		if len(words) == 0 || !strings.Contains("start run pause cont output pass fail skip bench build-output build-fail", words[0]) {
			b.WriteString(line)
			continue
		}
		e := map[string]string{"Action": words[0]}
		if strings.HasPrefix(words[0], "build") {
			e["ImportPath"] = words[1]
		} else {
			e["Package"] = words[1]
		}
		if len(words) > 2 {
			e["Test"] = words[2]
		}
		if hasOutput {
			output, unended := strings.CutSuffix(output, `\c`)
			if !unended {
				output += "\n"
			}
			e["Output"] = output
		}
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(data, '\n'))
	}
	return b.String()
}

// course is a run of go test, what has to be printed of it and the exit code.
type course struct {
	events string
	code   int // of go test
	all    bool
	want   string
	errs   string
	exit   int
}

func (c course) check(t *testing.T) {
	t.Helper()
	list, err := specs.ParseList("^p TestListed(/sub)?: no such thing # why\n^p TestSilent: $ # why\n")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	r := newReport(&out, &errs, list, c.all)
	if err := r.read(strings.NewReader(stream(t, c.events))); err != nil {
		t.Fatal(err)
	}
	exit := r.finish(c.code)
	if want := strings.TrimPrefix(c.want, "\n"); out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	if errs.String() != c.errs || exit != c.exit {
		t.Errorf("errors %q, exit code %d; want %q, %d", errs.String(), exit, c.errs, c.exit)
	}
}

const passes = `
start p
run p TestA
output p TestA >=== RUN   TestA
output p TestA >    a_test.go:3: a note
output p TestA >printed
output p TestA >--- PASS: TestA (0.00s)
pass p TestA
run p TestA
output p TestA >=== RUN   TestA
output p TestA >--- PASS: TestA (0.00s)
pass p TestA
output p >PASS
output p >ok  	p	0.1s
pass p
start q
output q >?   	q	[no test files]
skip q
`

func TestPasses(t *testing.T) {
	course{events: passes, want: `
ok  	p	0.1s
?   	q	[no test files]
2 passed, 0 failed, 0 skipped
`}.check(t)
	course{events: passes, all: true, want: `
=== RUN   TestA
    a_test.go:3: a note
printed
--- PASS: TestA (0.00s)
=== RUN   TestA
--- PASS: TestA (0.00s)
PASS
ok  	p	0.1s
?   	q	[no test files]
2 passed, 0 failed, 0 skipped
`}.check(t)
}

// What a test that passes has printed itself stays, since it may be of another that fails.
func TestFails(t *testing.T) {
	course{code: 1, exit: 1, events: `
start p
output p >from TestMain
run p TestA
output p TestA >=== RUN   TestA
output p TestA >    a_test.go:3: a note
output p TestA >        and more
output p TestA >printed
output p TestA >        printed, not logged
output p TestA >--- PASS: TestA (0.00s)
pass p TestA
run p TestB
output p TestB >=== RUN   TestB
run p TestB/good
output p TestB/good >=== RUN   TestB/good
output p TestB/good >    a_test.go:4: a very long\c
output p TestB/good > line of a log
output p TestB/good >--- PASS: TestB/good (0.00s)
pass p TestB/good
run p TestB/bad
output p TestB/bad >=== RUN   TestB/bad
output p TestB/bad >    a_test.go:5: wrong
output p TestB/bad >--- FAIL: TestB/bad (0.00s)
fail p TestB/bad
output p TestB >--- FAIL: TestB (0.00s)
fail p TestB
run p TestB
output p TestB >=== RUN   TestB
output p TestB >--- PASS: TestB (0.00s)
pass p TestB
output p >FAIL
output p >FAIL	p	0.1s
fail p
`, want: `
from TestMain
printed
        printed, not logged
=== RUN   TestB
=== RUN   TestB/bad
    a_test.go:5: wrong
--- FAIL: TestB/bad (0.00s)
--- FAIL: TestB (0.00s)
FAIL
FAIL	p	0.1s
3 passed, 2 failed, 0 skipped
`}.check(t)
}

const listed = `
start p
run p TestA
pass p TestA
run p TestListed
run p TestListed/sub
output p TestListed/sub >    a_test.go:3: about to look
output p TestListed/sub >    a_test.go:4: no such thing here
output p TestListed/sub >        in detail
skip p TestListed/sub
output p TestListed >    a_test.go:4: no such thing here
skip p TestListed
run p TestSilent
skip p TestSilent
output p >ok  	p	0.1s
pass p
`

func TestListedSkips(t *testing.T) {
	course{events: listed, want: "ok  \tp\t0.1s\n1 passed, 0 failed, 3 skipped\n"}.check(t)
}

func TestSkipsThatAreNotListed(t *testing.T) {
	course{exit: 1, events: `
start p
run p TestA
pass p TestA
run p TestListed
output p TestListed >    a_test.go:3: for another reason
skip p TestListed
run p TestSilent
output p TestSilent >    a_test.go:3: not without a word
skip p TestSilent
run p TestOther/sub
skip p TestOther/sub
output p >ok  	p	0.1s
pass p
`, want: `
ok  	p	0.1s
FAILED (skipped, and not in test/gotest/skips.txt) p TestListed
  for another reason
FAILED (skipped, and not in test/gotest/skips.txt) p TestSilent
  not without a word
FAILED (skipped, and not in test/gotest/skips.txt) p TestOther/sub
1 passed, 3 failed, 0 skipped
`}.check(t)
}

// Packages of the project are named by their directories.
func TestDirectories(t *testing.T) {
	list, err := specs.ParseList("^runtime/layer TestA: ")
	if err != nil {
		t.Fatal(err)
	}
	r := newReport(io.Discard, io.Discard, list, false)
	if !r.mayskip(event{Package: module + "runtime/layer", Test: "TestA"}, nil) || r.mayskip(event{Package: module + "x/runtime/layer", Test: "TestA"}, nil) {
		t.Error("a directory does not name its package alone")
	}
}

func TestDoesNotBuild(t *testing.T) {
	course{code: 1, exit: 1, errs: "# q [q.test]\nq_test.go:3:27: undefined: x\n", events: `
build-output q ># q [q.test]
build-output q >q_test.go:3:27: undefined: x
build-fail q
start p
start q
output q >FAIL	q [build failed]
fail q
run p TestA
pass p TestA
output p >ok  	p	0.1s
pass p
`, want: `
ok  	p	0.1s
FAIL	q [build failed]
1 passed, 1 failed, 0 skipped
`}.check(t)
}
