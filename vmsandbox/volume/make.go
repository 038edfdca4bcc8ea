package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// sharedOptions are those of the guest's 9p mount. The page cache serves mappings only:
// reads and writes go to the host, so that both sides always see the same.
func sharedOptions() []string {
	return []string{
		"nodev", "trans=virtio", "version=9p2000.L", "msize=512000", "access=client", "cache=mmap", "directio",
	}
}

// make makes a volume appear in the guest, or leaves nothing behind.
func (s *Set) make(ctx context.Context, v *volume, key string, src *source) error {
	switch v.Kind {
	case kindTree, kindFile:
		return s.makeMirror(ctx, v, key)
	case kindMemory:
		return s.makeMemory(ctx, v)
	case kindDisk:
		return s.makeDisk(ctx, v)
	}
	return s.makeShared(ctx, v, src)
}

// makeMemory makes a tmpfs as large as the host's, of the same owner and mode.
func (s *Set) makeMemory(ctx context.Context, v *volume) error {
	src, err := openSource(v.Source)
	if err != nil {
		return err
	}
	defer src.close()
	v.Path = path.Join(agent.DirVolumes, v.Name)
	options := []string{
		fmt.Sprintf("mode=%04o", src.stat.Mode&0o7777),
		fmt.Sprintf("uid=%d", src.stat.Uid),
		fmt.Sprintf("gid=%d", src.stat.Gid),
	}
	if size := int64(src.fs.Blocks) * src.fs.Bsize; size > 0 {
		options = append(options, fmt.Sprintf("size=%d", size))
	}
	err = s.opts.Guest.Mount(ctx, agent.Mount{Source: "tmpfs", Target: v.Path, Type: "tmpfs", Options: options})
	if err != nil {
		return fmt.Errorf("mount memory for an emptyDir: %w", err)
	}
	return nil
}

// makeDisk makes a directory with the mode and owner that the kubelet gave the host's.
func (s *Set) makeDisk(ctx context.Context, v *volume) error {
	disk, file, err := s.opts.Disk(ctx, s.disks())
	if err != nil {
		return fmt.Errorf("find a disk for an emptyDir: %w", err)
	}
	parent := path.Join(disk, "volumes")
	v.Path = path.Join(parent, v.Name)
	own, err := directory(v.Source, v.Path)
	if err != nil {
		return err
	}
	files := []agent.File{{Path: parent, Mode: unix.S_IFDIR | 0o755}, own}
	if err := s.opts.Guest.Put(ctx, files); err != nil {
		return fmt.Errorf("make an emptyDir: %w", err)
	}
	if file == "" {
		return nil
	}
	if err := v.showDisk(file); err != nil {
		s.opts.Log.Debug("the kubelet does not see what an emptyDir occupies", "source", v.Source, "error", err)
	}
	return nil
}

// makeSub makes the directories down to what a subPath names, as the kubelet made them
// on the host. What is there is left as containers made it: it may be a file, of which the
// host knows nothing. A link is refused, for it would lead into the guest's own files.
func (s *Set) makeSub(ctx context.Context, v *volume, p plan) error {
	var files []agent.File
	rel := ""
	for name := range strings.SplitSeq(p.sub, "/") {
		rel = path.Join(rel, name)
		target := path.Join(v.Path, rel)
		found, err := s.opts.Guest.Get(ctx, target)
		switch {
		case errdefs.IsNotFound(err):
			dir, err := directory(filepath.Join(p.source, rel), target)
			if err != nil {
				return err
			}
			files = append(files, dir)
		case err == nil && found.Mode&unix.S_IFMT == unix.S_IFLNK:
			return refuse(errdefs.ErrFailedPrecondition, "host_path", "sub-path %q of an emptyDir is a symbolic link", rel)
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("look for sub-path %q of an emptyDir: %w", rel, err)
		}
		// Another error says that it is there and is no small file.
	}
	if len(files) == 0 {
		return nil
	}
	if err := s.opts.Guest.Put(ctx, files); err != nil {
		return fmt.Errorf("make sub-path %q of an emptyDir: %w", p.sub, err)
	}
	return nil
}

// directory describes a directory of the host, to be made at a path in the guest.
func directory(host, guest string) (agent.File, error) {
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		return agent.File{}, fmt.Errorf("stat %q: %w", host, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return agent.File{}, refuseSub(host)
	}
	return agent.File{Path: guest, Mode: st.Mode, UID: st.Uid, GID: st.Gid}, nil
}

// makeShared exports a source and lets the guest mount the file system of all exports.
func (s *Set) makeShared(ctx context.Context, v *volume, src *source) error {
	if s.state.Dir == "" {
		return fmt.Errorf("share %q: the machine has no directory for volumes", v.Source)
	}
	e := s.export(v)
	if err := e.mount(src); err != nil {
		return err
	}
	v.Path = path.Join(sharedDir, v.Name)
	if err := s.mountShared(ctx); err != nil {
		return errors.Join(err, e.unmount())
	}
	return nil
}

func (s *Set) mountShared(ctx context.Context) error {
	if s.state.Shared {
		return nil
	}
	m := agent.Mount{Source: vmm.VolumesTag, Target: sharedDir, Type: "9p", Options: sharedOptions()}
	err := s.opts.Guest.Mount(ctx, m)
	if err != nil {
		// The tag can be mounted once, and may be: by a call whose answer was lost, or by a
		// daemon that died before it told. Nothing uses the mount yet.
		if s.opts.Guest.Unmount(ctx, sharedDir) == nil {
			err = s.opts.Guest.Mount(ctx, m)
		}
	}
	if err != nil {
		return fmt.Errorf("mount shared volumes: %w", err)
	}
	s.state.Shared = true
	return nil
}

func (s *Set) export(v *volume) export {
	return export{dir: s.state.Dir, name: v.Name, readonly: v.Readonly, recursive: v.Recursive, follow: v.Follow}
}

// drop takes a volume away that nobody uses any more. A guest that does not answer keeps
// its copy: the name is not used again.
func (s *Set) drop(ctx context.Context, key string, v *volume) error {
	if v.Kind == kindShared {
		return s.export(v).unmount()
	}
	s.unwatch(v, key)
	if s.opts.Guest == nil {
		return nil
	}
	if err := s.opts.Guest.Remove(ctx, []string{v.Path}); err != nil {
		s.opts.Log.Debug("mirrored volume stays in the guest", "source", v.Source, "error", err)
	}
	return nil
}

// resume takes up what State says: exports that are gone are made again, those that
// nobody knows are removed, and what changed meanwhile is mirrored.
func (s *Set) resume() error {
	known := map[string]bool{}
	for key, v := range s.state.Volumes {
		var err error
		switch v.Kind {
		case kindShared:
			known[v.Name] = true
			err = s.exportAgain(v)
		case kindTree, kindFile:
			err = s.watchVolume(v, key)
			s.follow.note(key)
		}
		if err != nil {
			// One volume that has gone must not make the pod unmanageable.
			s.opts.Log.Warn("volume cannot be taken up", "source", v.Source, "error", err)
		}
	}
	return sweepExports(s.state.Dir, known)
}

func (s *Set) exportAgain(v *volume) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	if mounts.mountpoint(filepath.Join(s.state.Dir, v.Name)) != nil {
		return nil
	}
	src, err := openResolved(v.Source)
	if err != nil {
		return err
	}
	defer src.close()
	return s.export(v).mount(src)
}

func removeExports(dir string) error { return sweepExports(dir, nil) }

// sweepExports ends all exports but those with a known name.
func sweepExports(dir string, known map[string]bool) error {
	entries, err := os.ReadDir(pointsOf(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list exported volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil || known[e.Name()] {
			continue // what a guest made is removed with the machine
		}
		errs = append(errs, export{dir: dir, name: e.Name()}.unmount())
	}
	return errors.Join(errs...)
}
