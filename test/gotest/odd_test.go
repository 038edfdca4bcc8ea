package main

import (
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/test/specs"
)

// The test that panics is told to have failed, others that ran beside it have no end.
func TestPanics(t *testing.T) {
	course{code: 1, exit: 1, events: `
start p
run p TestA
output p TestA >=== RUN   TestA
run p TestB
output p TestB >=== RUN   TestB
output p TestB >panic: no [recovered, repanicked]
output p TestB >
output p TestB >goroutine 8 [running]:
fail p TestB
output p >FAIL	p	0.1s
fail p
`, want: `
=== RUN   TestA
=== RUN   TestB
panic: no [recovered, repanicked]

goroutine 8 [running]:
FAIL	p	0.1s
0 passed, 1 failed, 0 skipped
`}.check(t)
}

// A package that takes too long, or ends in its TestMain, is a failure without a test's.
func TestEndsByItself(t *testing.T) {
	course{code: 1, exit: 1, events: `
start p
run p TestA
pass p TestA
output p >panic: test timed out after 1s
output p >	running tests:
output p >FAIL	p	1.0s
fail p
start q
output q >exit status 3
output q >FAIL	q	0.1s
fail q
`, want: `
panic: test timed out after 1s
	running tests:
FAIL	p	1.0s
exit status 3
FAIL	q	0.1s
1 passed, 2 failed, 0 skipped
`}.check(t)
}

// go test has died: what there is, is printed.
func TestIsCutShort(t *testing.T) {
	const events = `
start p
start q
run p TestA
output p TestA >=== RUN   TestA
run q TestB
output q TestB >=== RUN   TestB
output q TestB >    b_test.go:3: a note
pass q TestB
{"Action":"output","Package":"q","Te
`
	course{code: -1, exit: -1, events: events, want: `
{"Action":"output","Package":"q","Te
=== RUN   TestA
1 passed, 1 failed, 0 skipped
`}.check(t)
	course{code: -1, exit: -1, all: true, events: events, want: `
=== RUN   TestA
{"Action":"output","Package":"q","Te
=== RUN   TestB
    b_test.go:3: a note
1 passed, 1 failed, 0 skipped
`}.check(t)
}

func TestGarbage(t *testing.T) {
	course{events: `
some words

{"not": "an event"}
{"Action": 5}
start p
run p TestA
pass p TestA
output p >ok  	p	0.1s
pass p
last`, want: `
some words

{"not": "an event"}
{"Action": 5}
ok  	p	0.1s
last1 passed, 0 failed, 0 skipped
`}.check(t)
}

func TestNothingPassed(t *testing.T) {
	course{exit: 1, events: `
start p
output p >ok  	p	0.1s [no tests to run]
pass p
`, want: "ok  \tp\t0.1s [no tests to run]\nFAILED no test has passed\n0 passed, 1 failed, 0 skipped\n"}.check(t)
	course{exit: 1, events: `
start p
run p TestSilent
skip p TestSilent
output p >ok  	p	0.1s
pass p
`, want: "ok  \tp\t0.1s\nFAILED no test has passed\n0 passed, 1 failed, 1 skipped\n"}.check(t)
	course{code: 2, exit: 2, want: "0 passed, 1 failed, 0 skipped\n"}.check(t)
}

// Packages are printed in the order of their starts, the first, with -v, as it runs.
func TestPackagesBesideEachOther(t *testing.T) {
	events := []string{
		"start p\nstart q\nrun q TestB\noutput q TestB >q runs\n", "run p TestA\noutput p TestA >p runs\n",
		"pass q TestB\noutput q >ok  \tq\t0.1s\npass q\n", "pass p TestA\noutput p >ok  \tp\t0.2s\npass p\n",
	}
	for all, want := range map[bool][]string{
		true:  {"", "p runs\n", "p runs\n", "p runs\nok  \tp\t0.2s\nq runs\nok  \tq\t0.1s\n"},
		false: {"", "", "", "ok  \tp\t0.2s\nok  \tq\t0.1s\n"},
	} {
		var out strings.Builder
		r := newReport(&out, &out, specs.List{}, all)
		for i, e := range events {
			if err := r.read(strings.NewReader(stream(t, e))); err != nil {
				t.Fatal(err)
			}
			if out.String() != want[i] {
				t.Errorf("-v %v: %d: printed %q, want %q", all, i, out.String(), want[i])
			}
		}
	}
}

func TestShowsAll(t *testing.T) {
	for args, want := range map[string]bool{
		"": false, "-vet=off ./x": false, "-run v ./x": false, "-v ./x": true, "--v ./x": true, "-v=true": true, "-v=false": false,
		"-test.v": true, "-race -bench=. ./x": true, "./x -args -v": false, "-fuzz F ./x": true,
	} {
		if got := showsAll(strings.Fields(args)); got != want {
			t.Errorf("%q: %v, want %v", args, got, want)
		}
	}
}
