package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// prepareMounts resolves and makes the sources on the host, and proves that they can
// propagate mounts as asked. The configuration's own slice is left as it is.
func (c *creation) prepareMounts() error {
	mounts := slices.Clone(c.config.Mounts)
	for i := range mounts {
		m := &mounts[i]
		if len(m.Image) > 0 {
			continue
		}
		source, err := resolveSource(m.Source)
		if err != nil {
			return err
		}
		m.Source = source
		if err := checkPropagation(source, m.Propagation); err != nil {
			return err
		}
		if m.SELinuxRelabel && c.config.MountLabel != "" {
			if err := label.Relabel(source, c.config.MountLabel, false); err != nil && !errors.Is(err, unix.ENOTSUP) {
				return fmt.Errorf("relabel mount source %q: %w", source, err)
			}
		}
	}
	c.config.Mounts = mounts
	return nil
}

// resolveSource follows symbolic links. A source that does not exist becomes a
// directory: other runtimes make it, and pods rely on that.
func resolveSource(source string) (string, error) {
	if !filepath.IsAbs(source) {
		return "", fmt.Errorf("mount source %q is not absolute: %w", source, errdefs.ErrInvalidArgument)
	}
	resolved, err := filepath.EvalSymlinks(source)
	if err == nil {
		return resolved, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("resolve mount source %q: %w", source, err)
	}
	if err := os.MkdirAll(source, 0o755); err != nil {
		return "", fmt.Errorf("make mount source %q: %w", source, err)
	}
	if resolved, err = filepath.EvalSymlinks(source); err != nil {
		return "", fmt.Errorf("resolve mount source %q: %w", source, err)
	}
	return resolved, nil
}

// checkPropagation refuses a propagation that the mount below source cannot give: it
// would silently not take place.
func checkPropagation(source string, p runtime.Propagation) error {
	if p == "" || p == runtime.PropagationPrivate {
		return nil
	}
	mount, err := mountOf(source)
	if err != nil {
		return err
	}
	shared, slave := false, false
	for option := range strings.FieldsSeq(mount.Optional) {
		shared = shared || strings.HasPrefix(option, "shared:")
		slave = slave || strings.HasPrefix(option, "master:")
	}
	switch {
	case p == runtime.PropagationBidirectional && !shared:
		return fmt.Errorf("path %q is mounted on %q but it is not a shared mount: %w", source, mount.Mountpoint, errdefs.ErrFailedPrecondition)
	case p == runtime.PropagationHostToContainer && !shared && !slave:
		return fmt.Errorf("path %q is mounted on %q but it is not a shared or slave mount: %w", source, mount.Mountpoint, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func mountOf(path string) (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var deepest *mountinfo.Info
	for _, m := range mounts {
		// Of several at one place, the last one is on top.
		if deepest == nil || len(m.Mountpoint) >= len(deepest.Mountpoint) {
			deepest = m
		}
	}
	if deepest == nil {
		return nil, fmt.Errorf("find the mount of %q: %w", path, errdefs.ErrNotFound)
	}
	return deepest, nil
}
