package main

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// findRuntimes finds the OCI runtimes that are installed, by handler, and the default
// one. Handlers whose program is missing are left out, unless one is the default.
func findRuntimes(c config.Config, systemd bool, log *slog.Logger) (map[string]oci.Runtime, string, error) {
	found := map[string]oci.Runtime{}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		r := c.Runtimes[name]
		path := r.Path
		if path == "" {
			path = name
		}
		o, err := oci.Find(path)
		if err != nil {
			log.Debug("runtime handler is left out", "handler", name, "error", err)
			continue
		}
		if o.Root = r.Root; o.Root == "" {
			o.Root = filepath.Join(c.State, "oci", name)
		}
		o.SystemdCgroup = systemd
		found[name] = o
	}
	def, err := defaultRuntime(c.DefaultRuntime, found)
	return found, def, err
}

func defaultRuntime(wanted string, found map[string]oci.Runtime) (string, error) {
	if wanted != "" {
		if _, ok := found[wanted]; !ok {
			return "", fmt.Errorf("default_runtime: the program of %q is not installed; install it, or set its path in [runtimes.%s]", wanted, wanted)
		}
		return wanted, nil
	}
	for _, name := range append([]string{"crun", "runc"}, slices.Sorted(maps.Keys(found))...) {
		if _, ok := found[name]; ok {
			return name, nil
		}
	}
	return "", fmt.Errorf("no OCI runtime is installed: apt-get install crun (or runc), or set a path in [runtimes.NAME]")
}

// systemdCgroups says whether systemd is to make the cgroups.
func systemdCgroups(driver string) bool {
	if driver != config.DriverAuto {
		return driver == config.DriverSystemd
	}
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return false
	}
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}
