package diff

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// together is how many cases run at once.
const together = 4

// The shared-kernel hull shows what containerd shows.
func TestKernel(t *testing.T) { compare(t, kernelName) }

// So does a virtual machine, as far as one can.
func TestVM(t *testing.T) { compare(t, vmName) }

// tally is what the cases of one hull came to.
type tally struct {
	mu     sync.Mutex
	ran    int
	used   map[int]bool            // lines of the list
	groups map[difference][]string // cases with a difference that is not listed; the key has none
}

func compare(t *testing.T, hull string) {
	text, err := os.ReadFile("differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseList(string(text))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := world.get(hull)
	if err != nil {
		t.Fatal(err)
	}
	sum := &tally{used: map[int]bool{}, groups: map[difference][]string{}}
	all := cases()
	slots := make(chan struct{}, together)
	t.Run("cases", func(t *testing.T) {
		for _, c := range all {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				look := func(ctx context.Context, e *endpoint) observation { return e.observe(ctx, c) }
				peer, own := world.peer(c.name, look), look(t.Context(), ours)
				for _, o := range []observation{peer, own} {
					if o.broken != "" {
						t.Error(o.broken)
					}
				}
				for _, d := range sum.add(hull, list, compareObservations(c.name, peer, own)) {
					t.Errorf("not listed: %s | %s | %s | %s | %s", hull, d.testCase, d.field, d.peer, d.ours)
				}
			})
		}
	})
	sum.report(t, hull)
	if sum.ran < len(all) || t.Failed() {
		return // a part of the cases says nothing about the whole list
	}
	for _, a := range list {
		if (a.hull == hull || a.hull == bothHulls) && !sum.used[a.line] {
			t.Errorf("differences.txt:%d no longer applies: %s | %s | %s | %s | %s", a.line, a.hull, a.testCase, a.field, a.peer, a.ours)
		}
	}
}

// add counts a case's differences and returns those that are not listed.
func (s *tally) add(hull string, list []allowed, found []difference) (unlisted []difference) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ran++
	for _, d := range found {
		listed := false
		for _, a := range list {
			if a.allows(hull, d) {
				s.used[a.line], listed = true, true
			}
		}
		if !listed {
			unlisted = append(unlisted, d)
			key := d
			key.testCase = ""
			s.groups[key] = append(s.groups[key], d.testCase)
		}
	}
	return unlisted
}

// report says what is not listed, as lines for the list: one for all cases that share it.
func (s *tally) report(t *testing.T, hull string) {
	t.Helper()
	var b strings.Builder
	keys := slices.SortedFunc(maps.Keys(s.groups), func(a, b difference) int { return strings.Compare(a.field, b.field) })
	for _, d := range keys {
		names := s.groups[d]
		slices.Sort(names)
		fmt.Fprintf(&b, "# %d: %s\n%s | * | %s | %s | %s\n", len(names), strings.Join(names[:min(4, len(names))], " "), hull, d.field, d.peer, d.ours)
	}
	if b.Len() == 0 {
		return
	}
	t.Errorf("not listed in differences.txt:\n%s", b.String())
}
