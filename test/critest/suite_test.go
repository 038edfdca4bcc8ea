package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/hack/tools"
)

// TestPluginSpecs: the specs for NRI plugins are run where the suite has them, against a
// daemon that is patient with them; 1.36.0 does not know the flag.
func TestPluginSpecs(t *testing.T) {
	for version, want := range map[string]bool{tools.CritestVersion: false, tools.NextCritestVersion: true} {
		for _, hull := range []string{"", hullVM} {
			o := options{runtime: "cricket", critest: version, hull: hull}
			if got := slices.Contains(o.flags("unix:///x", "report"), "--nri-socket"); got != want {
				t.Errorf("critest %s is told of the socket: %t", version, got)
			}
			c, problems := config.Parse([]byte(o.configuration()))
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			if got := fmt.Sprint(c.NRI.RequestTimeout) == patience; got != want || c.NRI.Socket != nriSocket {
				t.Errorf("beside critest %s the daemon has %+v", version, c.NRI)
			}
			if got := strings.HasSuffix(o.name(), version); got != want {
				t.Errorf("what is kept of critest %s is named %s", version, o.name())
			}
		}
	}
}

// Only what specs bind is unmounted: anything else below is a leak to be seen.
func TestUnmountSpecs(t *testing.T) {
	dir := t.TempDir()
	for path, kept := range map[string]bool{"testab01/mnt": false, "testab01/other": true, "elsewhere/mnt": true, "testab02/mnt/below": true} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			mounted, err := mountinfo.Mounted(path)
			if err != nil || mounted != kept {
				t.Errorf("%s is mounted: %t, %v", path, mounted, err)
			}
			_ = unix.Unmount(path, unix.MNT_DETACH)
		})
	}
	if err := unmountSpecs(dir); err != nil {
		t.Error(err)
	}
}
