package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
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

type spec struct {
	name, state, message string
}

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

// readReport reads ginkgo's JSON report.
func readReport(path string) ([]spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read critest's report: %w", err)
	}
	var suites []struct {
		SpecReports []struct {
			LeafNodeType            string
			ContainerHierarchyTexts []string
			LeafNodeText            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("read critest's report: %w", err)
	}
	var specs []spec
	for _, suite := range suites {
		for _, r := range suite.SpecReports {
			s := spec{state: r.State, message: r.Failure.Message}
			s.name = strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")
			// Set-up that passed is no spec; set-up that failed is a failure.
			if r.LeafNodeType != "It" && s.state == "passed" {
				continue
			}
			specs = append(specs, s)
		}
	}
	if len(specs) == 0 {
		return nil, fmt.Errorf("read critest's report: it has no specs")
	}
	return specs, nil
}

// judge counts specs and prints what is not as it should be. A skip that skips.txt does
// not list is a failure, unless the caller chose the specs; so is a spec that refusals
// lists and that is not refused.
func judge(specs []spec, chosen bool, refusals string) (result, error) {
	allowed, err := parseSkips(skips)
	if err != nil {
		return result{}, err
	}
	refused, err := parseSkips(refusals)
	if err != nil {
		return result{}, err
	}
	var r result
	for _, s := range specs {
		mayRefuse, skipped := refused.MatchString(s.name), s.state == "skipped" || s.state == "pending"
		switch {
		case s.state == "passed" && !mayRefuse:
			r.passed++
		case s.state == "passed":
			r.failed++
			fmt.Printf("FAILED (passed, though it has to be refused) %s\n", s.name)
		case !skipped && mayRefuse && strings.Contains(s.message, refusalMark):
			r.refused++
		case !skipped:
			r.failed++
			fmt.Printf("FAILED %s\n  %s\n", s.name, indent(s.message))
		case chosen || allowed.MatchString(s.name):
			r.skipped++
		default:
			r.failed++
			fmt.Printf("FAILED (skipped, and not in skips.txt) %s\n  %s\n", s.name, indent(s.message))
		}
	}
	return r, nil
}

func indent(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[:min(len(lines), 12)], "\n  ")
}

// parseSkips reads lines of an expression, and comments after #. A section that begins
// with "@without PATH" counts only on hosts that lack the file, until "@always".
func parseSkips(text string) (*regexp.Regexp, error) {
	all := []string{`\A\z`}
	active := true
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if path, ok := strings.CutPrefix(line, "@without "); ok {
			_, err := os.Stat(path)
			active = err != nil
			continue
		}
		if line == "@always" {
			active = true
			continue
		}
		if line != "" && active {
			all = append(all, line)
		}
	}
	return regexp.Compile("(?:" + strings.Join(all, ")|(?:") + ")")
}
