package main

import "fmt"

// bound is how long Cricket may take for something at most, as a part of containerd's time
// in the same run.
type bound struct {
	figure string
	factor float64
}

// bounds are what SPECIFICATION.md promises. They leave room for a noisy machine:
// docs/verified.md has what was measured.
var bounds = []bound{
	{"1 start", 0.8},
	{"30 start", 0.6},
	{"30 delete", 0.8},
}

// machines is the measurement of pods in virtual machines that has to go well, however long
// it takes: emulated machines have nothing to be compared with.
const machines = "vm30"

// verdict says whether a bound was held.
type verdict struct {
	held bool
	text string
}

func (v verdict) String() string {
	if v.held {
		return "held    " + v.text
	}
	return "missed  " + v.text
}

// judge says of every bound what became of it. What was not measured is missed.
func judge(cricket, containerd figures) (all []verdict) {
	for _, b := range bounds {
		all = append(all, b.judge(cricket.Times[b.figure], containerd.Times[b.figure]))
	}
	return append(all, whole(cricket))
}

func (b bound) judge(cricket, containerd series) verdict {
	if len(cricket) == 0 || len(containerd) == 0 {
		return verdict{false, b.figure + ": not measured on both runtimes"}
	}
	factor := cricket.median() / containerd.median()
	return verdict{factor <= b.factor, fmt.Sprintf("%s: %.2f of containerd's time, at most %.2f", b.figure, factor, b.factor)}
}

// whole judges the pods in virtual machines. Those that never ran have failed the
// measurement already; here are those that ran at another attempt.
func whole(cricket figures) verdict {
	rounds, errors := len(cricket.Times[machines+" start"]), cricket.Errors[machines]
	switch {
	case rounds == 0:
		return verdict{false, machines + ": not measured"}
	case len(errors) > 0:
		return verdict{false, fmt.Sprintf("%s: %d errors, the first: %s", machines, len(errors), errors[0])}
	default:
		return verdict{true, fmt.Sprintf("%s: %d times without an error", machines, rounds)}
	}
}
