package integration

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// blow is what is done at a step that is passed: by the failpoint itself, or to the
// machines while it holds the step.
type blow struct {
	name string
	do   func(*Node, context.Context) (killed int, err error)
	// late: it needs a container that runs, and is for the steps after the first start.
	late bool
}

func blows() []blow {
	all := []blow{{name: "error"}, {name: "kill"}}
	if InVMs() {
		all = append(all, blow{name: "machine", do: (*Node).killMachines}, blow{name: "guest", do: (*Node).panicGuest, late: true})
	}
	return all
}

// TestEveryStepFails makes every step of every flow fail, and kills the process that
// does it there, before its work and after; where pods are virtual machines, it also
// kills their processes there, and lets their kernels panic. The steps are those that a
// whole life of a pod passes: nobody lists them. All requests succeed when they are made
// again, with another pod where the machine was killed, and after each of the lives,
// which have some failures in a row, nothing is left behind.
func TestEveryStepFails(t *testing.T) {
	n := Start(t)
	points := n.everyStepFails(t, nil)
	if len(points) < 40 {
		t.Fatalf("the life passed only %d failpoints: %v", len(points), points)
	}
}

// TestEveryStepOfBootsFails is TestEveryStepFails for what machines pass that are booted
// for their pods.
func TestEveryStepOfBootsFails(t *testing.T) {
	needVMs(t)
	var cloned []string
	t.Run("cloned", func(t *testing.T) {
		n := Start(t)
		if err := newLife(n).lead(t.Context()); err != nil {
			t.Fatalf("a life without failures: %v", err)
		}
		cloned = n.passed()
	})
	n := startHull(t, hull{strict: true})
	points := n.everyStepFails(t, cloned)
	if !slices.ContainsFunc(points, func(p string) bool { return strings.HasPrefix(p, "boot machine/") }) {
		t.Errorf("no machine was booted: %v", points)
	}
}

// everyStepFails strikes at all steps of a life but the known, and returns those.
func (n *Node) everyStepFails(t *testing.T, known []string) []string {
	var early []string
	l := newLife(n)
	l.between = func(request string, err error) (bool, error) {
		if request == "start first" {
			early = n.passed()
		}
		return false, err
	}
	if err := l.lead(t.Context()); err != nil {
		t.Fatalf("a life without failures: %v", err)
	}
	tidy, err := newTidy(n)
	if err != nil {
		t.Fatal(err)
	}
	all := n.passed()
	points := unknown(all, known)
	begin := slices.DeleteFunc(slices.Clone(points), func(p string) bool { return !atStart(p) })
	inLife := slices.DeleteFunc(slices.Clone(points), atStart)
	for _, b := range blows() {
		t.Run(b.name, func(t *testing.T) {
			if b.late {
				n.strikeAll(t, tidy, b, unknown(all[len(early):], known), (*strikes).inLife)
				return
			}
			n.strikeAll(t, tidy, b, begin, (*strikes).atStart)
			n.strikeAll(t, tidy, b, inLife, (*strikes).inLife)
		})
	}
	return points
}

// atStart tells of a failpoint whether it is passed when a daemon starts, and not in lives.
func atStart(point string) bool { return strings.HasPrefix(point, "make template/") }

// unknown are the points that are not known, each once.
func unknown(points, known []string) (all []string) {
	for _, p := range points {
		if !slices.Contains(known, p) && !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// strikeAll strikes at the points, some of them in each life.
func (n *Node) strikeAll(t *testing.T, tidy *tidy, b blow, points []string, strike func(*strikes, context.Context) error) {
	for left := points; len(left) > 0; {
		s := &strikes{node: n, blow: b, left: left}
		left = left[1:] // if the command line leaves the first one out
		t.Run(s.left[0], func(t *testing.T) {
			all := s.left
			err := s.during(t.Context(), strike)
			left = s.left
			t.Logf("struck: %v", all[:len(all)-len(left)])
			if s.impossible {
				t.Skip(errNoPanic)
			}
			if err = errors.Join(err, tidy.check(t.Context())); err != nil {
				tidy.fail(t, err)
			}
		})
	}
}

// passed lists the failpoints that were passed since the node started.
func (n *Node) passed() []string {
	n.t.Helper()
	text, err := os.ReadFile(n.Failpoints + ".seen")
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
