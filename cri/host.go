package cri

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox"
)

// readHost finds out what the conversions must know of this host. It is read once: what
// of it can change while the daemon runs is behind functions.
func readHost() (hostFacts, error) {
	name, err := os.Hostname()
	if err != nil {
		return hostFacts{}, fmt.Errorf("read host name: %w", err)
	}
	caps, err := spec.ReadCapabilities()
	if err != nil {
		return hostFacts{}, err
	}
	v2 := cgroupV2()
	return hostFacts{
		Hostname:       name,
		CgroupV2:       v2,
		Swap:           swapAccounted(v2),
		Hugetlb:        hugetlbControlled(v2),
		Seccomp:        exists("/proc/sys/kernel/seccomp/actions_avail"),
		ReadProfile:    os.ReadFile,
		AppArmor:       appArmorEnabled(),
		AppArmorLoaded: appArmorLoaded,
		SELinux:        selinux.GetEnabled(),
		SELinuxLabels:  label.InitLabels,
		Capabilities:   caps,
	}, nil
}

// hostOf adds what depends on the runtime handler.
func (s *Server) hostOf(d sandbox.Driver) hostFacts {
	h, f := s.host, d.Features()
	h.UserNamespaces, h.RecursiveReadOnly = f.UserNamespaces, f.RecursiveReadOnlyMounts
	return h
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func cgroupV2() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
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

// appArmorProfiles lists the profiles that the kernel has loaded, one a line with its
// mode in brackets.
const appArmorProfiles = "/sys/kernel/security/apparmor/profiles"

func appArmorEnabled() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
}

func appArmorLoaded(profile string) (bool, error) {
	f, err := os.Open(appArmorProfiles)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read AppArmor profiles: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), profile+" (") {
			return true, nil
		}
	}
	return false, lines.Err()
}
