package sandbox

import (
	"maps"
	"slices"
	"testing"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

func TestTracesOfTheMonitor(t *testing.T) {
	for name, tt := range map[string]struct {
		entries    []monitor.Entry
		sandboxes  []string
		containers map[string]string
	}{
		"nothing":                    {nil, nil, nil},
		"hold":                       {[]monitor.Entry{{Kind: monitor.KindHold, ID: "p"}}, []string{"p"}, nil},
		"container":                  {[]monitor.Entry{{ID: "c", Sandbox: "p"}}, []string{"p"}, map[string]string{"c": "p"}},
		"both":                       {[]monitor.Entry{{Kind: monitor.KindHold, ID: "p"}, {ID: "c", Sandbox: "p"}}, []string{"p"}, map[string]string{"c": "p"}},
		"container of somebody else": {[]monitor.Entry{{ID: "c"}}, nil, nil},
		"a kind of a later monitor":  {[]monitor.Entry{{Kind: "volume", ID: "v", Sandbox: "p"}}, nil, nil},
	} {
		got := newTraces()
		got.entries(tt.entries)
		if ids := slices.Sorted(maps.Keys(got.sandboxes)); !slices.Equal(ids, tt.sandboxes) || !maps.Equal(got.containers, tt.containers) {
			t.Errorf("%s: %v, %v", name, ids, got.containers)
		}
	}
}
