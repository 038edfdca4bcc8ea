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
	sandbox string // of a container to be swept
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

// traces are what one driver finds on the machine.
type traces struct {
	sandboxes  []string
	containers map[string]string // the sandbox of each
}

// reconcile compares the records with what the drivers find traces of, by handler, and
// says what to do. The traces must have been collected before the facts: an intent is
// recorded before anything is made, so a trace without a record is then certainly
// nobody's. Sandboxes come before their containers, and sweeping comes last.
func reconcile(facts []fact, found map[string]traces) []action {
	var sandboxes, containers []action
	for _, f := range facts {
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
	return slices.Concat(sandboxes, containers, sweeps(facts, found))
}

// sweeps are the traces without a record. Those of a container go with its sandbox, or
// by themselves if that goes on undisturbed.
func sweeps(facts []fact, found map[string]traces) []action {
	known := map[objectKind]map[string]bool{kindSandbox: {}, kindContainer: {}}
	settled := map[string]bool{}
	for _, f := range facts {
		known[f.kind][f.id] = true
		if f.kind == kindSandbox {
			settled[f.id] = !f.busy && !f.pending && !f.broken
		}
	}
	var all []action
	for _, handler := range slices.Sorted(maps.Keys(found)) {
		for _, id := range found[handler].sandboxes {
			if !known[kindSandbox][id] {
				all = append(all, action{verb: sweep, kind: kindSandbox, id: id, handler: handler})
			}
		}
	}
	for _, handler := range slices.Sorted(maps.Keys(found)) {
		inside := found[handler].containers
		for _, id := range slices.Sorted(maps.Keys(inside)) {
			if settled[inside[id]] && !known[kindContainer][id] {
				known[kindContainer][id] = true // drivers that share a machine see each other's
				all = append(all, action{verb: sweep, kind: kindContainer, id: id, handler: handler, sandbox: inside[id]})
			}
		}
	}
	return all
}
