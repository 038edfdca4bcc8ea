package diff

import (
	"slices"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	list, err := parseList("# About the list.\n\n# Why\n# it is so.\nboth | * | a.*.c | x* | (absent)\nvm | theme/* | b | 1 | 2\n")
	if err != nil || len(list) != 2 || list[0].reason != "Why it is so." || list[1].reason != list[0].reason || list[1].line != 6 {
		t.Fatalf("got %+v, %v", list, err)
	}
	for _, c := range []struct {
		hull  string
		d     difference
		lines []int
	}{
		{kernelName, difference{"theme/x", "a.b.c", "xyz", absent}, []int{5}},
		{vmName, difference{"theme/x", "b", "1", "2"}, []int{6}},
		{kernelName, difference{"theme/x", "b", "1", "2"}, nil},
		{vmName, difference{"other/x", "b", "1", "2"}, nil},
		{vmName, difference{"theme/x", "b", "1", "3"}, nil},
		{vmName, difference{"theme/x", "a.c", "x", absent}, nil},
	} {
		var lines []int
		for _, a := range list {
			if a.allows(c.hull, c.d) {
				lines = append(lines, a.line)
			}
		}
		if !slices.Equal(lines, c.lines) {
			t.Errorf("%s %+v: lines %v, want %v", c.hull, c.d, lines, c.lines)
		}
	}
	for _, wrong := range []string{"both | a | b | c | d", "# why\nboth | a | b | c", "# why\nnone | a | b | c | d", "# why\n\nboth | a | b | c | d"} {
		if _, err := parseList(wrong); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

func TestCompareObservations(t *testing.T) {
	seen := func(refusal string, fields ...string) observation {
		o := observation{refusal: refusal, fields: map[string]string{}}
		for _, f := range fields {
			name, text, _ := strings.Cut(f, "=")
			o.fields[name] = text
		}
		return o
	}
	for name, c := range map[string]struct {
		peer, ours observation
		want       []difference
	}{
		"equal":              {seen("", "a=1"), seen("", "a=1"), nil},
		"different":          {seen("", "a=1", "b=2", "d=4"), seen("", "a=1", "b=3", "c=4"), []difference{{"x", "b", "2", "3"}, {"x", "c", absent, "4"}, {"x", "d", "4", absent}}},
		"one refuses":        {seen("", "a=1"), seen("Create: Invalid"), []difference{{"x", outcome, ran, "Create: Invalid"}}},
		"refused elsewhere":  {seen("Start: Unknown", "a=1"), seen("Create: Invalid"), []difference{{"x", outcome, "Start: Unknown", "Create: Invalid"}}},
		"refused in a way":   {seen("Start: Unknown", "a=1"), seen("Start: Invalid", "a=2"), []difference{{"x", "a", "1", "2"}, {"x", outcome, "Start: Unknown", "Start: Invalid"}}},
		"refused as by peer": {seen("Start: Invalid", "a=1"), seen("Start: Invalid", "a=1"), nil},
	} {
		if got := compareObservations("x", c.peer, c.ours); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestPlain(t *testing.T) {
	w := &words{pairs: []string{"0123", "<container>", "10.0.0.2", "<ip 0>"}}
	got := w.plain(map[string]string{
		"status.created_at": "17", "status.finished_at": "0", "stats.cpu.value": "18", "stats.cpu.{}": "set", "inside.link.veth12ab": "up",
		"inside.cgroup.path.cpu": "/a/0123", "inside.file./etc/hosts": "10.0.0.2\tp\r\n",
		"inside.mount./x.type": "ext4", "inside.mount./x.root": "/where", "inside.mount./proc.type": "proc", "inside.mount./proc.root": "/sys",
		"inside.mount./.type": "overlay", "inside.mount./.super": "rw,lowerdir=/a:/b,upperdir=/c,workdir=/d",
	})
	want := map[string]string{
		"status.created_at": "<time>", "status.finished_at": "0", "stats.cpu.{}": "set",
		"inside.cgroup.path.cpu": "/a/<container>", "inside.file./etc/hosts": `<ip 0>\tp\r\n`,
		"inside.mount./x.type": "ext4", "inside.mount./proc.type": "proc", "inside.mount./proc.root": "/sys",
		"inside.mount./.type": "overlay", "inside.mount./.super": "rw",
	}
	if d := differences("", want, got); len(d) > 0 {
		t.Errorf("different from what is wanted: %+v", d)
	}
}
