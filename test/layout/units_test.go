package layout

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestUnits holds what the daemon's data and its recovery rest on: no unit may run without
// the file systems that it keeps something on, the monitor needs not those of the daemon,
// and the daemon is not killed while it recovers.
func TestUnits(t *testing.T) {
	root, _ := packages(t)
	for name, want := range map[string]map[string][]string{
		"cricketd.service": {
			"Unit/RequiresMountsFor": {"/run/cricket", "/var/lib/cricket"}, "Service/TimeoutStartSec": {"infinity"},
		},
		"cricket-monitor.service": {"Unit/RequiresMountsFor": {"/run/cricket"}},
	} {
		got := unit(t, filepath.Join(root, "hack", "systemd", name))
		for key, values := range want {
			slices.Sort(got[key])
			if !slices.Equal(got[key], values) {
				t.Errorf("%s: %s is %q, want %q", name, key, got[key], values)
			}
		}
	}
}

// unit returns the words of each SECTION/SETTING.
func unit(t *testing.T, path string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, section := map[string][]string{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(name, "]")
		} else if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			all[section+"/"+key] = append(all[section+"/"+key], strings.Fields(value)...)
		}
	}
	return all
}
