package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features are the abilities of a runtime that are asked for.
type Features struct {
	// Version is the first line of the runtime's --version.
	Version string
	// OCIVersionMax is the newest specification it accepts.
	OCIVersionMax string
	// RecursiveReadOnly: it knows the mount option rro.
	RecursiveReadOnly bool
	UserNamespaces    bool
	// IDMappedMounts: it applies mappings to single mounts.
	IDMappedMounts bool
	Seccomp        bool
	AppArmor       bool
	SELinux        bool
	// Checkpoint: it was built to work with CRIU.
	Checkpoint bool
	// Told: the runtime said so itself; else it is known of its version.
	Told bool
}

// Features asks the runtime what it can do. crun tells since 1.9; what older ones can
// is derived from their version. It uses os/exec: not for a process that runs a
// monitor.Server. ErrUnavailable if the program cannot be executed.
func (r Runtime) Features(ctx context.Context) (Features, error) {
	// Both at once: every start of the daemon waits for them.
	var version, text []byte
	var wrong, untold error
	var asked sync.WaitGroup
	asked.Go(func() { version, wrong = exec.CommandContext(ctx, r.Path, "--version").Output() })
	asked.Go(func() { text, untold = exec.CommandContext(ctx, r.Path, "features").Output() })
	asked.Wait()
	if wrong != nil {
		return Features{}, fmt.Errorf("ask %s for its version: %w: %w", r.Path, errdefs.ErrUnavailable, wrong)
	}
	f := fromVersion(string(version))
	var told features.Features
	if untold != nil || json.Unmarshal(text, &told) != nil || told.OCIVersionMax == "" {
		return f, nil
	}
	return fromTold(f.Version, told), nil
}

func fromTold(version string, t features.Features) Features {
	f := Features{Version: version, OCIVersionMax: t.OCIVersionMax, Told: true, RecursiveReadOnly: slices.Contains(t.MountOptions, "rro")}
	// How runc and crun say that they can work with CRIU.
	for _, name := range []string{"org.opencontainers.runc.checkpoint.enabled", "run.oci.crun.checkpoint.enabled"} {
		f.Checkpoint = f.Checkpoint || t.Annotations[name] == "true"
	}
	if t.Linux == nil {
		return f
	}
	f.UserNamespaces = slices.Contains(t.Linux.Namespaces, "user")
	on := func(b *bool) bool { return b != nil && *b }
	if m := t.Linux.MountExtensions; m != nil && m.IDMap != nil {
		f.IDMappedMounts = on(m.IDMap.Enabled)
	}
	f.Seccomp = t.Linux.Seccomp != nil && on(t.Linux.Seccomp.Enabled)
	f.AppArmor = t.Linux.Apparmor != nil && on(t.Linux.Apparmor.Enabled)
	f.SELinux = t.Linux.Selinux != nil && on(t.Linux.Selinux.Enabled)
	return f
}

// fromVersion reads crun's --version, which lists what it was built with:
//
//	crun version 1.8.1
//	spec: 1.0.0
//	+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +YAJL
//
// Recursive read-only and id-mapped mounts are claimed from the oldest version that was
// tried on, 1.8 (Debian 12); runtime/monitor tries what is claimed.
func fromVersion(text string) Features {
	first, _, _ := strings.Cut(text, "\n")
	f := Features{Version: first, OCIVersionMax: "1.0.2", UserNamespaces: true}
	var major, minor int
	if n, _ := fmt.Sscanf(first, "crun version %d.%d", &major, &minor); n == 2 {
		f.RecursiveReadOnly = major > 1 || major == 1 && minor >= 8
		f.IDMappedMounts = major > 1 || major == 1 && minor >= 8
	}
	built := strings.Fields(text)
	f.Seccomp = slices.Contains(built, "+SECCOMP")
	f.AppArmor = slices.Contains(built, "+APPARMOR")
	f.SELinux = slices.Contains(built, "+SELINUX")
	f.Checkpoint = slices.Contains(built, "+CRIU")
	return f
}
