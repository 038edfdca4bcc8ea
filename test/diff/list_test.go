package diff

import (
	"fmt"
	"slices"
	"strings"
)

// absent is the text of a field that an endpoint does not show.
const absent = "(absent)"

// difference is a field of a case that two endpoints show differently.
type difference struct {
	testCase, field string
	peer, ours      string
}

// allowed is a line of the list: differences that are meant, or cannot be helped. All but
// the hull may hold asterisks, each for any text.
type allowed struct {
	line            int
	hull            string // of Cricket; both, or one of them
	testCase, field string
	peer, ours      string
	reason          string
}

// bothHulls is the hull of lines that hold for either.
const bothHulls = "both"

// parseList reads lines of "HULL | CASE | FIELD | PEER'S TEXT | OURS"; the comment lines
// that come before some of them are their reason.
func parseList(text string) ([]allowed, error) {
	var list []allowed
	var reason []string
	inReason := false
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" {
			reason, inReason = nil, false
			continue
		}
		if words, ok := strings.CutPrefix(line, "#"); ok {
			if !inReason {
				reason = nil
			}
			reason, inReason = append(reason, strings.TrimSpace(words)), true
			continue
		}
		inReason = false
		f := strings.Split(line, " | ")
		switch {
		case len(f) != 5:
			return nil, fmt.Errorf("differences.txt:%d: has %d fields, want 5", number, len(f))
		case !slices.Contains([]string{kernelName, vmName, bothHulls}, f[0]):
			return nil, fmt.Errorf("differences.txt:%d: no hull is called %s", number, f[0])
		case len(reason) == 0:
			return nil, fmt.Errorf("differences.txt:%d: has no reason", number)
		}
		list = append(list, allowed{
			line: number, hull: f[0], testCase: f[1], field: f[2], peer: f[3], ours: f[4], reason: strings.Join(reason, " "),
		})
	}
	return list, nil
}

// allows tells whether the line covers a difference.
func (a allowed) allows(hull string, d difference) bool {
	return (a.hull == hull || a.hull == bothHulls) && like(a.testCase, d.testCase) && like(a.field, d.field) && like(a.peer, d.peer) && like(a.ours, d.ours)
}

// like tells whether text is what a pattern with asterisks says.
func like(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(text, first) {
		return false
	}
	text = text[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = after
	}
	return strings.HasSuffix(text, last)
}

// outcome is the field that says how far a case came.
const outcome = "outcome"

// ran is the outcome of a case to which nothing was refused.
const ran = "nothing is refused"

// compareObservations finds the differences of a case. Where one endpoint refused what the
// other did not, or another call, that is the only one.
func compareObservations(name string, peer, ours observation) []difference {
	peerEnd, ourEnd := ran, ran
	if peer.refusal != "" {
		peerEnd = peer.refusal
	}
	if ours.refusal != "" {
		ourEnd = ours.refusal
	}
	peerCall, _, _ := strings.Cut(peer.refusal, ":")
	ourCall, _, _ := strings.Cut(ours.refusal, ":")
	if peerCall != ourCall {
		return []difference{{name, outcome, peerEnd, ourEnd}}
	}
	all := differences(name, peer.fields, ours.fields)
	if peerEnd != ourEnd {
		all = append(all, difference{name, outcome, peerEnd, ourEnd})
	}
	return all
}

// differences are the fields in which ours is not as the peer's.
func differences(name string, peer, ours map[string]string) []difference {
	var all []difference
	for field, text := range peer {
		other, ok := ours[field]
		if !ok {
			other = absent
		}
		if text != other {
			all = append(all, difference{name, field, text, other})
		}
	}
	for field, text := range ours {
		if _, ok := peer[field]; !ok {
			all = append(all, difference{name, field, absent, text})
		}
	}
	slices.SortFunc(all, func(a, b difference) int { return strings.Compare(a.field, b.field) })
	return all
}
