package monitor

import (
	"os"
	"path/filepath"
	"testing"
)

// cgroupWithEvents is a directory that looks like a v2 cgroup in which the kernel has
// killed so often.
func cgroupWithEvents(t *testing.T, dir, kills string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "low 0\nhigh 0\nmax 12\noom 1\noom_kill " + kills + "\noom_group_kill 0\n"
	if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOOMKilledOnV2(t *testing.T) {
	for _, test := range []struct {
		name                string
		scope, slice, above string // kills at the end; empty: the cgroup is gone
		murdered, want      bool
	}{
		{name: "none", scope: "0", slice: "3", above: "4"},
		{name: "in the scope", scope: "1", slice: "4", above: "5", want: true},
		{name: "the scope tells, whatever killed init", scope: "1", slice: "4", above: "5", murdered: true, want: true},
		{name: "the scope denies it", scope: "0", slice: "4", above: "5", murdered: true},
		{name: "the scope is gone", slice: "4", above: "5", murdered: true, want: true},
		{name: "the scope is gone, killed by request", slice: "4", above: "5"},
		{name: "the scope is gone, nothing new", slice: "3", above: "5", murdered: true},
		{name: "the slice is gone too", above: "5", murdered: true, want: true},
		{name: "the slice is gone too, nothing new", above: "4", murdered: true},
		{name: "everything is gone", murdered: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			const above, slice, scope = "/cricket.slice", "/cricket.slice/pod.slice", "/cricket.slice/pod.slice/c.scope"
			cgroupWithEvents(t, root+above, "4")
			cgroupWithEvents(t, root+slice, "3")
			c := cgroup{Unified: root + scope, Above: ancestors(root, scope)}
			for dir, kills := range map[string]string{above: test.above, slice: test.slice, scope: test.scope} {
				if kills != "" {
					cgroupWithEvents(t, root+dir, kills)
				}
			}
			for _, dir := range []string{scope, slice, above} {
				if map[string]string{above: test.above, slice: test.slice, scope: test.scope}[dir] == "" {
					if err := os.RemoveAll(filepath.Join(root, dir, "memory.events")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := c.oomKilled(test.murdered); got != test.want {
				t.Errorf("OOM killed = %t, want %t", got, test.want)
			}
		})
	}
}
