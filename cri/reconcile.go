package cri

import (
	"maps"
	"slices"
)

// fact is what reconciliation needs to know of one record.
type fact struct {
	kind    objectKind
	id      string
	handler string // of a sandbox
	// pending: no more than an intent is recorded.
	pending bool
	// broken: the record could not be read.
	broken bool
	// live: there is an object to talk to it.
	live bool
	// busy: an operation is at it; what is seen of it may be half of something.
	busy bool
}

type objectKind string

const (
	kindSandbox   objectKind = "sandbox"
	kindContainer objectKind = "container"
)

// action is one thing to do so that records and machine agree.
type action struct {
	verb    verb
	kind    objectKind
	id      string
	handler string
}

type verb string

const (
	// undo takes back what an interrupted creation may have made.
	undo verb = "undo"
	// adopt finds the thing behind a record, or finds that it is gone.
	adopt verb = "adopt"
	// sweep removes traces that no record accounts for.
	sweep verb = "sweep"
)

// reconcile compares the records with the sandboxes that the drivers find traces of, by
// handler, and says what to do. The traces must have been collected before the facts:
// an intent is recorded before anything is made, so a trace without a record is then
// certainly nobody's. Sandboxes come before their containers, and sweeping comes last.
func reconcile(facts []fact, traces map[string][]string) []action {
	var sandboxes, containers, sweeps []action
	known := map[string]bool{}
	for _, f := range facts {
		if f.kind == kindSandbox {
			known[f.id] = true
		}
		a := action{kind: f.kind, id: f.id, handler: f.handler}
		switch {
		case f.busy || f.broken:
			continue // a broken record stays until it is removed
		case f.pending:
			a.verb = undo
		case !f.live:
			a.verb = adopt
		default:
			continue
		}
		if f.kind == kindSandbox {
			sandboxes = append(sandboxes, a)
		} else {
			containers = append(containers, a)
		}
	}
	for _, handler := range slices.Sorted(maps.Keys(traces)) {
		for _, id := range traces[handler] {
			if !known[id] {
				sweeps = append(sweeps, action{sweep, kindSandbox, id, handler})
			}
		}
	}
	return slices.Concat(sandboxes, containers, sweeps)
}
