package netns_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

// table is what the kernel shows of interfaces that have received 1, 2, 3 bytes and so on.
func table(names ...string) []byte {
	lines := []string{"Inter-|   Receive  |  Transmit", " face |bytes packets |bytes packets"}
	for i, name := range names {
		lines = append(lines, fmt.Sprintf("%6s: %d 0 0 0 0 0 0 0 9 0 0 0 0 0 0 0", name, i+1))
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// The kernel takes nearly any name: every one is text, and none becomes that of another.
func TestCountersOfInterfacesWithAnyName(t *testing.T) {
	names := []string{"lo", "x", "x\xff", "x\xfe", `"x\xff"`, `x\xff`, "x\x1b[2J", "x\u2003", "caf\u00e9", "eth0\xff"}
	seen := map[string]bool{}
	stats := netns.ParseCounters(table(names...))
	for i, s := range stats {
		if !utf8.ValidString(s.Name) || strings.ContainsAny(s.Name, "\x1b\u2003") || seen[s.Name] {
			t.Errorf("%q is called %q", names[i+1], s.Name)
		}
		if seen[s.Name] = true; s.RxBytes != uint64(i+2) || s.TxBytes != 9 {
			t.Errorf("%q has %+v", names[i+1], s)
		}
	}
	if len(stats) != len(names)-1 || !seen["x"] || !seen["caf\u00e9"] || seen["eth0"] {
		t.Errorf("got %+v", stats)
	}
}

// Who makes very many interfaces is told of some, and of the pod's own first.
func TestCountersOfManyInterfaces(t *testing.T) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("d%d", i))
	}
	stats := netns.ParseCounters(table(append(names, "eth0")...))
	want := runtime.NetworkStat{Name: "eth0", RxBytes: 1001, TxBytes: 9}
	if len(stats) != 256 || stats[0] != want || stats[1].Name != "d0" || stats[255].Name != "d254" {
		t.Errorf("%d interfaces, the first is %+v", len(stats), stats[0])
	}
}
