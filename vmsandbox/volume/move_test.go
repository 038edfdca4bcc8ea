package volume

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
)

// elsewhere makes the volumes of another pod: an emptyDir, and a file with text.
func (p *pod) elsewhere(uid, text string) (empty, file string) {
	dir := filepath.Join(p.base, "pods", uid)
	empty, file = dir+emptyDirName+"scratch", filepath.Join(dir, "etc-hosts")
	p.mkdir(empty, 0o777)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return empty, file
}

func mountsOf(empty, file string) []runtime.Mount {
	return []runtime.Mount{{Source: empty, Destination: "/scratch"}, {Source: file, Destination: "/etc/hosts"}}
}

func TestVolumesMoveToAnotherPod(t *testing.T) {
	p := newPod(t)
	for _, m := range mountsOf(p.elsewhere("uid-7", "old")) {
		if _, err := p.set.Add(t.Context(), "old", m); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.set.Savable(); err != nil {
		t.Fatal(err)
	}
	was, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.set.Release(); err != nil {
		t.Fatal(err)
	}
	empty, file := p.elsewhere("uid-8", "new")
	moved, err := Move(was, []Moved{{From: "old", ID: "new", Mounts: mountsOf(empty, file)}})
	if err != nil {
		t.Fatal(err)
	}
	var s state
	if err := json.Unmarshal(moved, &s); err != nil || len(s.Volumes) != 2 || s.Dir != "" {
		t.Fatalf("moved: %s, %v", moved, err)
	}
	if strings.Contains(string(moved), "uid-7") {
		t.Errorf("it still names the other pod: %s", moved)
	}
	p.set = p.open(Options{Dir: p.machine, State: moved})
	hosts := s.mounted(target("new", "/etc/hosts"))
	eventually(t, "the guest has the new file", func() bool {
		content, _ := os.ReadFile(p.guest.path(hosts.Path))
		return string(content) == "new"
	})
	// What is mounted again finds the same volumes.
	for _, m := range mountsOf(empty, file) {
		shown, err := p.set.Add(t.Context(), "second", m)
		if v := s.mounted(target("new", m.Destination)); err != nil || shown.Source != v.Path {
			t.Errorf("%s is %s, was %s: %v", m.Destination, shown.Source, v.Path, err)
		}
	}
	if err := p.set.RemoveContainer(t.Context(), "new"); err != nil {
		t.Error(err)
	}
}

func TestVolumesDoNotMove(t *testing.T) {
	p := newPod(t)
	for _, m := range mountsOf(p.elsewhere("uid-7", "old")) {
		if _, err := p.set.Add(t.Context(), "old", m); err != nil {
			t.Fatal(err)
		}
	}
	was, err := p.set.State()
	if err != nil {
		t.Fatal(err)
	}
	empty, file := p.elsewhere("uid-8", "new")
	mounts := mountsOf(empty, file)
	for name, m := range map[string][]runtime.Mount{
		"one is missing":   mounts[:1],
		"one more":         append(mounts[:2:2], runtime.Mount{Source: file, Destination: "/more", Readonly: true}),
		"of another kind":  {mounts[0], {Source: p.base, Destination: "/etc/hosts"}},
		"two become one":   {mounts[0], {Source: empty, Destination: "/etc/hosts"}},
		"somewhere else":   {mounts[0], {Source: file, Destination: "/etc/host"}},
		"emptyDir of disk": {{Source: p.base, Destination: "/scratch"}, mounts[1]},
	} {
		if _, err := Move(was, []Moved{{From: "old", ID: "new", Mounts: m}}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{`{"volumes":{"a":null},"next":-1}`, `[]`, `{`} {
		if _, err := Move(json.RawMessage(bad), nil); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestMovedVolumesAreChecked: what is moved may come from anybody, and a name becomes a file
// and a mount point of the host.
func TestMovedVolumesAreChecked(t *testing.T) {
	p := newPod(t)
	empty, _ := p.elsewhere("uid-8", "new")
	host := filepath.Join(p.base, "host")
	p.mkdir(host, 0o755)
	one := func(kind, name, path string) string {
		return fmt.Sprintf(`{"next": 2, "volumes": {"a": {"kind": %q, "name": %q, "path": %q, "targets": ["old /v"], "users": ["old"]}}}`, kind, name, path)
	}
	for name, bad := range map[string]string{
		"shared with the host":    one("shared", "1", "/run/cricket/shared/host/1"),
		"out of the directory":    one("disk", "../../etc", "/run/cricket/disks/volumes/../../etc"),
		"no name":                 one("disk", "", "/run/cricket"),
		"not a number":            one("disk", "x", "/run/cricket/x"),
		"written oddly":           one("disk", "01", "/run/cricket/01"),
		"never given":             one("disk", "3", "/run/cricket/3"),
		"of another path":         one("disk", "1", "/run/cricket/2"),
		"of a path that goes up":  one("disk", "1", "/run/cricket/../1"),
		"of a path that is local": one("disk", "1", "volumes/1"),
		"twice": `{"next": 2, "volumes": {"a": {"kind": "disk", "name": "1", "path": "/d/1", "targets": ["old /v"], "users": ["old"]},
			"b": {"kind": "disk", "name": "1", "path": "/d/1", "targets": ["old /w"], "users": ["old"]}}}`,
	} {
		source := empty
		if strings.Contains(bad, "shared") {
			source = host
		}
		if _, err := Move(json.RawMessage(bad), []Moved{{From: "old", ID: "new", Mounts: []runtime.Mount{{Source: source, Destination: "/v"}}}}); !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Move(json.RawMessage(one("disk", "1", "/d/volumes/1")), []Moved{{From: "old", ID: "new", Mounts: []runtime.Mount{{Source: empty, Destination: "/v"}}}}); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestSharedVolumesAreNotSaved(t *testing.T) {
	p := newPod(t)
	host := filepath.Join(p.base, "host")
	p.mkdir(host, 0o755)
	if _, err := p.set.Add(t.Context(), "c", runtime.Mount{Source: host, Destination: "/h"}); err != nil {
		t.Fatal(err)
	}
	if err := p.set.Savable(); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), host) {
		t.Errorf("a shared volume: %v", err)
	}
	if err := p.set.RemoveContainer(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := p.set.Savable(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after a shared volume: %v", err)
	}
}
