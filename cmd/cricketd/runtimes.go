package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/sandbox/cgroup"
)

// findRuntimes finds the OCI runtimes that are installed, by handler, and the default
// one. Handlers whose program is missing are left out, unless one is the default.
func findRuntimes(ctx context.Context, c config.Config, systemd bool, log *slog.Logger) (map[string]oci.Runtime, string, error) {
	found := map[string]oci.Runtime{}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		r := c.Runtimes[name]
		if r.Type == config.TypeVM {
			continue
		}
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
	if c.Runtimes[c.DefaultRuntime].Type == config.TypeVM {
		return found, c.DefaultRuntime, nil
	}
	def, err := defaultRuntime(ctx, c.DefaultRuntime, found, log)
	return found, def, err
}

// defaultRuntime is the handler of pods that name none: the one that is wanted, or else
// the first that can do everything the API offers, crun before runc because it is
// faster. If none can, it is the first that is installed.
func defaultRuntime(ctx context.Context, wanted string, found map[string]oci.Runtime, log *slog.Logger) (string, error) {
	if wanted != "" {
		if _, ok := found[wanted]; !ok {
			return "", fmt.Errorf("default_runtime: the program of %q is not installed; install it, or set its path in [runtimes.%s]", wanted, wanted)
		}
		return wanted, nil
	}
	order := preference(found)
	if len(order) == 0 {
		return "", fmt.Errorf("no OCI runtime is installed: apt-get install crun (or runc), or set a path in [runtimes.NAME]")
	}
	for _, name := range order {
		f, err := found[name].Features(ctx)
		if missing := lacks(f); err == nil && len(missing) == 0 {
			return name, nil
		} else if err == nil {
			err = fmt.Errorf("it lacks %s", strings.Join(missing, ", "))
		}
		log.Warn("runtime handler is not chosen as the default", "handler", name, "reason", err)
	}
	return order[0], nil
}

// preference orders handlers: crun, runc, then the others by name.
func preference(found map[string]oci.Runtime) []string {
	order := slices.Sorted(maps.Keys(found))
	rank := func(name string) int {
		if i := slices.Index([]string{"crun", "runc"}, name); i >= 0 {
			return i
		}
		return 2
	}
	slices.SortStableFunc(order, func(a, b string) int { return rank(a) - rank(b) })
	return order
}

// lacks names what pods could not have with a runtime of these features.
func lacks(f oci.Features) []string {
	var missing []string
	for name, has := range map[string]bool{
		"seccomp": f.Seccomp, "user namespaces": f.UserNamespaces, "id-mapped mounts": f.IDMappedMounts,
		"recursive read-only mounts": f.RecursiveReadOnly,
	} {
		if !has {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// systemdCgroups says whether systemd is to make the cgroups.
func systemdCgroups(driver string) bool {
	if driver != config.DriverAuto {
		return driver == config.DriverSystemd
	}
	if tree, err := cgroup.Open(); err != nil || !tree.Unified() {
		return false
	}
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}
