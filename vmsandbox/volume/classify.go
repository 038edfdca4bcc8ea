package volume

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// kind is how a volume crosses.
type kind string

const (
	kindTree   kind = "tree"   // API volume, mirrored
	kindFile   kind = "file"   // single file, mirrored
	kindMemory kind = "memory" // emptyDir in the guest's memory
	kindDisk   kind = "disk"   // emptyDir on a disk of the machine
	kindShared kind = "shared" // 9p
)

// Limits of what is mirrored, in bytes and in entries of a volume. What is larger is shared.
const (
	maxFile    = 1 << 20
	maxTree    = 16 << 20
	maxEntries = 4096
)

// plan says what to do with a mount.
type plan struct {
	kind kind
	// source is the volume's own path: of an emptyDir the directory that the kubelet
	// made, else that of the mount.
	source string
	// sub is the path in an emptyDir that is mounted.
	sub string
	// topOnly: of a shared directory only the top is read-only, mounts below are not.
	topOnly bool
}

// refuse says why a mount cannot be had in a virtual machine.
func refuse(reason error, field, format string, args ...any) error {
	return fmt.Errorf("mounts[].%s: %s (docs/limitations.md): %w", field, fmt.Sprintf(format, args...), reason)
}

// classify decides how the source of m crosses.
func classify(m runtime.Mount, s *source, own string) (plan, error) {
	if err := checkMount(m, s); err != nil {
		return plan{}, err
	}
	mounts, err := readMounts()
	if err != nil {
		return plan{}, err
	}
	p, err := planOf(m, s, mounts)
	if err != nil || p.kind != kindShared {
		return p, err
	}
	p.topOnly = topOnly(m, s, mounts)
	return p, checkShared(m, s, mounts, own)
}

// topOnly tells whether mounts below a read-only mount stay writable. To the guest all is
// one file system, so that only the host can tell them apart.
func topOnly(m runtime.Mount, s *source, mounts mountTable) bool {
	return m.Readonly && !m.RecursiveReadOnly && slices.ContainsFunc(mounts, func(sub *mountinfo.Info) bool {
		rel, ok := below(sub.Mountpoint, s.path)
		return ok && rel != ""
	})
}

// checkMount refuses what has no meaning across two kernels, whatever it is.
func checkMount(m runtime.Mount, s *source) error {
	switch m.Propagation {
	case "", runtime.PropagationPrivate, runtime.PropagationHostToContainer:
	case runtime.PropagationBidirectional:
		return refuse(errdefs.ErrInvalidArgument, "propagation", "mounts made in a virtual machine cannot appear on the host")
	default:
		return refuse(errdefs.ErrInvalidArgument, "propagation", "%q is not known", m.Propagation)
	}
	switch s.typ() {
	case unix.S_IFREG, unix.S_IFDIR:
	case unix.S_IFSOCK:
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s is a socket of the host", s.path)
	case unix.S_IFIFO:
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s is a named pipe of the host", s.path)
	default:
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s is a device of the host", s.path)
	}
	switch {
	case pseudo(s.fs.Type):
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s belongs to the host's kernel", s.path)
	case s.fs.Type == unix.HUGETLBFS_MAGIC:
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s consists of huge pages of the host", s.path)
	}
	return nil
}

// checkShared refuses what 9p cannot do.
func checkShared(m runtime.Mount, s *source, mounts mountTable, own string) error {
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		return refuse(errdefs.ErrFailedPrecondition, "uidMappings", "%s is shared by 9p, which has no id-mapped mounts", s.path)
	}
	if _, ok := below(own, s.path); ok {
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s contains the machine's own state", s.path)
	}
	on, err := mounts.of(s)
	if err != nil {
		return err
	}
	if pseudoType(on.FSType) {
		return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s belongs to the host's kernel", s.path)
	}
	if m.Propagation == runtime.PropagationHostToContainer && !propagates(on.Optional) {
		return refuse(errdefs.ErrFailedPrecondition, "propagation", "%s is mounted on %s, which is not a shared or slave mount", s.path, on.Mountpoint)
	}
	for _, sub := range mounts {
		if _, ok := below(sub.Mountpoint, s.path); ok && pseudoType(sub.FSType) {
			return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s contains %s, which belongs to the host's kernel", s.path, sub.Mountpoint)
		}
	}
	return nil
}

// propagates tells from the optional fields of a mount whether others reach it.
func propagates(optional string) bool {
	for field := range strings.FieldsSeq(optional) {
		if strings.HasPrefix(field, "shared:") || strings.HasPrefix(field, "master:") {
			return true
		}
	}
	return false
}

func planOf(m runtime.Mount, s *source, mounts mountTable) (plan, error) {
	if p, ok, err := emptyDir(s, mounts); ok || err != nil {
		return p, err
	}
	switch {
	case s.typ() == unix.S_IFREG && s.stat.Size <= maxFile && copied(m, s.path):
		return plan{kind: kindFile, source: s.path}, nil
	case s.typ() == unix.S_IFDIR && m.Readonly && isAPIVolume(s):
		return plan{kind: kindTree, source: s.path}, nil
	}
	return plan{kind: kindShared, source: s.path}, nil
}

// copied tells whether a file can be copied. One that a container only reads can: copies
// follow it. One that it writes is copied back at the container's end, which is enough
// for those that the kubelet makes; others are shared, so that every write is seen.
func copied(m runtime.Mount, source string) bool {
	if m.Readonly {
		return true
	}
	switch path.Clean(m.Destination) {
	case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log":
		return true
	}
	pod := podDir(source)
	if pod == "" {
		return false
	}
	rel, _ := below(source, pod)
	return rel == "etc-hosts" || strings.HasPrefix(rel, "containers/")
}

// podDir returns the kubelet's directory of the pod that path lies in: …/pods/UID.
func podDir(path string) string {
	_, rest, ok := strings.Cut(path, "/pods/")
	if !ok {
		return ""
	}
	uid, _, ok := strings.Cut(rest, "/")
	if !ok || uid == "" {
		return ""
	}
	return strings.TrimSuffix(path, "/"+rest) + "/" + uid
}

// isAPIVolume recognizes what the kubelet's atomic writer wrote: the link ..data to a
// directory beside it.
func isAPIVolume(s *source) bool {
	target, err := readlinkAt(s.fd(), dataLink)
	return err == nil && validData(target)
}

// emptyDirName is the directory of a pod's emptyDirs.
const emptyDirName = "/volumes/kubernetes.io~empty-dir/"

// emptyDir recognizes emptyDirs and what is mounted out of them by subPath, of which the
// kubelet makes a bind mount elsewhere in the pod's directory. Where the kubelet's directory
// is a bind mount too, files have names outside of it: they are not asked, so that an
// emptyDir has one name.
func emptyDir(s *source, mounts mountTable) (plan, bool, error) {
	pod := podDir(s.path)
	if pod == "" {
		return plan{}, false, nil
	}
	names, err := mounts.names(s)
	if err != nil {
		return plan{}, false, err
	}
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, pod+emptyDirName)
		if !ok || rest == "" {
			continue
		}
		volume, sub, _ := strings.Cut(rest, "/")
		p := plan{kind: kindDisk, source: filepath.Join(pod, emptyDirName, volume), sub: sub}
		// The kubelet mounts a tmpfs for medium Memory. Without one, the directory may
		// itself lie on a tmpfs with everything of the kubelet.
		if m := mounts.mountpoint(p.source); m != nil && m.FSType == "tmpfs" {
			p.kind = kindMemory
		}
		return p, true, nil
	}
	return plan{}, false, nil
}

func refuseSub(path string) error {
	return refuse(errdefs.ErrFailedPrecondition, "host_path", "%s is not a directory: of an emptyDir that lives in the machine only directories, and files that containers have written, can be mounted", path)
}
