package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// dumped is the directory of a checkpoint as its driver leaves it.
func dumped(t *testing.T, parent string) Dir {
	t.Helper()
	d, err := Make(parent, "c")
	must(t, err)
	for name, text := range map[string]string{specDump: "{}", dumpLog: "log", "stats-dump": "s", rootfsDiff: "tar", imagesDir + "/pages-1.img": "memory", "criu.conf": "no member"} {
		must(t, os.WriteFile(filepath.Join(string(d), name), []byte(text), 0o644))
	}
	must(t, os.Symlink("/etc/passwd", filepath.Join(ImagesDir(string(d)), "parent")))
	return d
}

func aboutTest(t *testing.T) About {
	t.Helper()
	log := filepath.Join(t.TempDir(), "0.log")
	must(t, os.WriteFile(log, []byte("line\n"), 0o644))
	return About{Config: Config{ID: "c", Name: "name"}, Status: Status{Pid: 7}, CRIStatus: []byte(`{"id":"c"}`), LogPath: log}
}

func TestWriteArchive(t *testing.T) {
	parent, dir := t.TempDir(), t.TempDir()
	location := filepath.Join(dir, "out.tar")
	must(t, os.WriteFile(location, []byte("old"), 0o644))
	d := dumped(t, parent)
	must(t, d.Write(t.Context(), aboutTest(t), location), d.Remove())
	raw, err := os.ReadFile(location)
	must(t, err)
	all := read(t, raw)
	for name, want := range map[string]string{specDump: "{}", dumpLog: "log", "stats-dump": "s", rootfsDiff: "tar", "checkpoint/pages-1.img": "memory", logCopy: "line\n", statusDump: `{"id":"c"}`} {
		if got := all[name]; got.data != want || got.Mode != 0o600 {
			t.Errorf("%s: %q, mode %o", name, got.data, got.Mode)
		}
	}
	if len(all) != 10 { // besides: config.dump, status and the directory
		t.Errorf("the archive has %d members", len(all))
	}
	var config Config
	if err := json.Unmarshal([]byte(all[configDump].data), &config); err != nil || config.Name != "name" {
		t.Errorf("%s: %+v, %v", configDump, config, err)
	}
	info, err := os.Stat(location)
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("mode of the archive: %v", info.Mode())
	}
	empty(t, parent)
	empty(t, dir, "out.tar")
}

func empty(t *testing.T, dir string, but ...string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if strings.Join(names, " ") != strings.Join(but, " ") {
		t.Errorf("%s holds %q, want %q", dir, names, but)
	}
}

// TestWriteArchiveFails: the old file stays, and there is no half of a new one.
func TestWriteArchiveFails(t *testing.T) {
	parent, dir := t.TempDir(), t.TempDir()
	location := filepath.Join(dir, "out.tar")
	must(t, os.WriteFile(location, []byte("old"), 0o600))
	d := dumped(t, parent)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Write(ended, aboutTest(t), location); !errors.Is(err, context.Canceled) {
		t.Errorf("written after its time: %v", err)
	}
	if err := d.Write(t.Context(), aboutTest(t), filepath.Join(dir, "none", "out.tar")); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("written to no directory: %v", err)
	}
	if err := d.Write(t.Context(), aboutTest(t), "/dev/full/out.tar"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("written below a device: %v", err)
	}
	must(t, d.Remove())
	empty(t, parent)
	empty(t, dir, "out.tar")
	if raw, err := os.ReadFile(location); err != nil || string(raw) != "old" {
		t.Errorf("the old file: %q, %v", raw, err)
	}
}

// TestSweep: what a process that was killed has left is removed, beside the location too.
func TestSweep(t *testing.T) {
	parent, dir := t.TempDir(), t.TempDir()
	d := dumped(t, parent)
	f, err := d.create(filepath.Join(dir, "out.tar"))
	must(t, err, f.Close())
	empty(t, dir, ".cricket-c.tmp")
	must(t, Sweep(parent), Sweep(filepath.Join(parent, "none")))
	empty(t, parent)
	empty(t, dir)
}
