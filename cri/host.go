package cri

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"

	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cgroup"
)

// readHost finds out what the conversions must know of this host. It is read once: what
// of it can change while the daemon runs is behind functions.
func readHost(log *slog.Logger) (hostFacts, error) {
	name, err := os.Hostname()
	if err != nil {
		return hostFacts{}, fmt.Errorf("read host name: %w", err)
	}
	caps, err := spec.ReadCapabilities()
	if err != nil {
		return hostFacts{}, err
	}
	tree, err := cgroup.Open()
	if err != nil {
		return hostFacts{}, err
	}
	v2, armor := tree.Unified(), hostAppArmor()
	return hostFacts{
		Hostname:        name,
		CgroupV2:        v2,
		Swap:            swapAccounted(v2),
		Hugetlb:         hugetlbControlled(v2),
		Seccomp:         exists("/proc/sys/kernel/seccomp/actions_avail"),
		ReadProfile:     os.ReadFile,
		AppArmor:        armor.enabled(),
		AppArmorDefault: armor.useDefault(log),
		AppArmorLoaded:  armor.loaded,
		SELinux:         selinux.GetEnabled(),
		SELinuxLabels:   label.InitLabels,
		Capabilities:    caps,
	}, nil
}

// hostFor is hostOf for the driver of a handler; the host alone if there is none any more.
func (s *Server) hostFor(handler string) hostFacts {
	if d := s.opts.Drivers[handler]; d != nil {
		return s.hostOf(d)
	}
	return s.host
}

// isMachine tells whether pods of a handler have a kernel of their own.
func (s *Server) isMachine(handler string) bool {
	d := s.opts.Drivers[handler]
	return d != nil && d.Features().OwnKernel
}

// hostOf adds what depends on the runtime handler.
func (s *Server) hostOf(d sandbox.Driver) hostFacts {
	h, f := s.host, d.Features()
	h.UserNamespaces, h.RecursiveReadOnly = f.UserNamespaces, f.RecursiveReadOnlyMounts
	if h.OwnKernel = f.OwnKernel; h.OwnKernel {
		h.CgroupV2, h.Swap, h.Hugetlb, h.Seccomp = true, false, false, true
		h.AppArmor, h.AppArmorDefault, h.SELinux = false, "", false
		h.Capabilities = spec.AllCapabilities()
	}
	return h
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// swapAccounted: the file is in every cgroup but the root, so in v2 any child's tells.
func swapAccounted(v2 bool) bool {
	if !v2 {
		return exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	files, err := filepath.Glob("/sys/fs/cgroup/*/memory.swap.max")
	return err == nil && len(files) > 0
}

func hugetlbControlled(v2 bool) bool {
	if !v2 {
		return exists("/sys/fs/cgroup/hugetlb")
	}
	text, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return err == nil && strings.Contains(" "+string(text)+" ", " hugetlb ")
}
