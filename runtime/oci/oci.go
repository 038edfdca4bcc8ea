// Package oci describes OCI runtimes (crun, runc) as programs: where they are, what
// they can do, and the command lines that drive them. It starts no container itself;
// runtime/monitor executes what Args returns.
package oci

import (
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Runtime is one OCI runtime of this machine.
type Runtime struct {
	// Name is how it is spoken of; "crun" and "runc" are known, others are treated as
	// runc is.
	Name string `json:"name"`
	// Path is the absolute path of the program.
	Path string `json:"path"`
	// Root is the directory in which the runtime keeps the state of its containers.
	Root string `json:"root"`
	// SystemdCgroup lets systemd make the cgroups (cgroupsPath is slice:prefix:name).
	SystemdCgroup bool `json:"systemdCgroup,omitempty"`
}

// Find looks for the first of names (default: crun, runc) in PATH and in the usual
// directories for programs of the administrator. ErrNotFound if there is none.
func Find(names ...string) (Runtime, error) {
	if len(names) == 0 {
		names = []string{"crun", "runc"}
	}
	for _, name := range names {
		for _, candidate := range []string{name, "/usr/bin/" + name, "/usr/sbin/" + name, "/usr/local/bin/" + name, "/usr/local/sbin/" + name} {
			path, err := exec.LookPath(candidate)
			if err != nil {
				continue
			}
			if path, err = filepath.Abs(path); err != nil {
				return Runtime{}, fmt.Errorf("resolve %s: %w", candidate, err)
			}
			return Runtime{Name: filepath.Base(name), Path: path}, nil
		}
	}
	return Runtime{}, fmt.Errorf("find an OCI runtime (%v): %w", names, errdefs.ErrNotFound)
}

// Crun reports whether the runtime is crun, which differs from runc where cgroup v1
// and v2 are mixed.
func (r Runtime) Crun() bool { return r.Name == "crun" }

// Args returns the command line for one call: the global options, then verb and rest.
// Messages go to log as JSON lines.
func (r Runtime) Args(log, verb string, rest ...string) []string {
	args := []string{r.Path}
	if r.Root != "" {
		args = append(args, "--root", r.Root)
	}
	if r.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	if log != "" {
		args = append(args, "--log", log, "--log-format", "json")
	}
	return append(append(args, verb), rest...)
}

// Create returns the command line that makes a container of the bundle. The process
// id of its init is written to pidFile; console, if not empty, is the socket that
// receives the terminal's master.
func (r Runtime) Create(log, bundle, pidFile, console, id string) []string {
	rest := []string{"--bundle", bundle, "--pid-file", pidFile}
	if console != "" {
		rest = append(rest, "--console-socket", console)
	}
	return r.Args(log, "create", append(rest, id)...)
}

// Exec returns the command line that starts the process described in the file process
// (a JSON specs.Process) inside a running container and leaves it behind.
func (r Runtime) Exec(log, process, pidFile, console, id string) []string {
	rest := []string{"--detach", "--process", process, "--pid-file", pidFile}
	if console != "" {
		rest = append(rest, "--console-socket", console)
	}
	return r.Args(log, "exec", append(rest, id)...)
}

// Start returns the command line that lets a created container run.
func (r Runtime) Start(log, id string) []string { return r.Args(log, "start", id) }

// Kill returns the command line that sends a signal, by number, to a container's init.
func (r Runtime) Kill(log, id, signal string) []string { return r.Args(log, "kill", id, signal) }

// Delete returns the command line that removes a container, running or not.
func (r Runtime) Delete(log, id string) []string { return r.Args(log, "delete", "--force", id) }

// State returns the command line that prints a container's state as JSON.
func (r Runtime) State(log, id string) []string { return r.Args(log, "state", id) }

// Update returns the command line that applies the resources in a file (a JSON
// specs.LinuxResources).
func (r Runtime) Update(log, resources, id string) []string {
	return r.Args(log, "update", "--resources", resources, id)
}

// Checkpoint returns the command line that has CRIU write the state of a running
// container's processes to the directory images, and its log to the directory work. The
// container goes on afterwards. Locks on files are part of the state; a container with
// open TCP connections or with sockets to the outside is refused, as with the other
// runtimes of the CRI.
func (r Runtime) Checkpoint(log, images, work, id string) []string {
	return r.Args(log, "checkpoint", "--leave-running", "--file-locks", "--image-path", images, "--work-path", work, id)
}
