package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/cricket-cri/cricket/test/specs"
)

// skips lists the specs that may skip, one regular expression a line.
//
//go:embed skips.txt
var skips string

// refusalsVM lists the specs that the VM hull has to refuse.
//
//go:embed refusals-vm.txt
var refusalsVM string

// refusalMark is in every refusal of what a hull cannot give.
const refusalMark = "docs/limitations.md"

type result struct {
	passed, failed, skipped, refused int
}

func (r *result) add(o result) {
	r.passed += o.passed
	r.failed += o.failed
	r.skipped += o.skipped
	r.refused += o.refused
}

func (r result) String() string {
	text := fmt.Sprintf("%d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
	if r.refused > 0 {
		text += fmt.Sprintf(", %d refused as they have to be", r.refused)
	}
	return text
}

// judge counts specs and prints what is not as it should be. A skip that skips.txt does
// not list is a failure, unless the caller chose the specs; so is a spec that refusals
// lists and that is not refused.
func judge(all []specs.Spec, chosen bool, refusals string) (result, error) {
	allowed, err := specs.ParseList(skips)
	if err != nil {
		return result{}, err
	}
	refused, err := specs.ParseList(refusals)
	if err != nil {
		return result{}, err
	}
	var r result
	for _, s := range all {
		mayRefuse := refused.Has(s.Name)
		switch {
		case s.State == specs.Passed && !mayRefuse:
			r.passed++
		case s.State == specs.Passed:
			r.failed++
			fmt.Printf("FAILED (passed, though it has to be refused) %s\n", s.Name)
		case !s.Skipped() && mayRefuse && strings.Contains(s.Message, refusalMark):
			r.refused++
		case !s.Skipped():
			r.failed++
			fmt.Printf("FAILED %s\n  %s\n", s.Name, s.Brief())
		case chosen || allowed.Has(s.Name):
			r.skipped++
		default:
			r.failed++
			fmt.Printf("FAILED (skipped, and not in skips.txt) %s\n  %s\n", s.Name, s.Brief())
		}
	}
	return r, nil
}
