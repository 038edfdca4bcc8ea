package cgroup

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// prefix is the first part of the names of our cgroups and systemd units.
const prefix = "cricket"

// Naming turns what the kubelet calls a pod's cgroup into paths. Its value says whether
// systemd keeps the tree (the systemd cgroup driver).
type Naming bool

// Own is the parent for the containers of a sandbox that was given none.
func (systemd Naming) Own(id string) string {
	if systemd {
		return prefix + "-" + id + ".slice"
	}
	return "/" + prefix + "/" + id
}

// Path is where the parent lies in the hierarchy.
// errdefs.ErrInvalidArgument: it is not a name for this driver.
func (systemd Naming) Path(parent string) (string, error) {
	isSlice := strings.HasSuffix(parent, ".slice")
	if bool(systemd) != isSlice {
		return "", fmt.Errorf("cgroup parent %q does not fit the cgroup driver (systemd %t): %w", parent, bool(systemd), errdefs.ErrInvalidArgument)
	}
	if !isSlice {
		return path.Clean("/" + parent), nil
	}
	name := strings.TrimSuffix(path.Base(parent), ".slice")
	if name == "-" {
		return "/", nil
	}
	if strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Contains(name, "--") || name == "" {
		return "", fmt.Errorf("cgroup parent %q is not a slice: %w", parent, errdefs.ErrInvalidArgument)
	}
	// The slice a-b.slice lies in a.slice (systemd.slice(5)).
	at, whole := "", ""
	for part := range strings.SplitSeq(name, "-") {
		whole = strings.TrimPrefix(whole+"-"+part, "-")
		at += "/" + whole + ".slice"
	}
	return at, nil
}

// Container is the cgroup of a container in parent: as the OCI specification has it
// for the runtime, and where it lies in the hierarchy.
func (systemd Naming) Container(parent, id string) (oci, at string, err error) {
	dir, err := systemd.Path(parent)
	if err != nil {
		return "", "", err
	}
	if systemd {
		return path.Base(parent) + ":" + prefix + ":" + id, path.Join(dir, prefix+"-"+id+".scope"), nil
	}
	at = path.Join(dir, id)
	return at, at, nil
}
