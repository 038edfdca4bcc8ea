package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// putBytes is how much content one call carries to the guest.
const putBytes = 4 << 20

// makeMirror copies a volume into the guest for the first time and begins to follow it.
// It is watched before it is read, so that no change falls between.
func (s *Set) makeMirror(ctx context.Context, v *volume, key string) error {
	if !s.state.Mirror {
		err := s.opts.Guest.Mount(ctx, agent.Mount{
			Source: "tmpfs", Target: mirrorDir, Type: "tmpfs", Options: []string{"mode=0755", "nodev"},
		})
		if err != nil {
			return fmt.Errorf("mount memory for mirrored volumes: %w", err)
		}
		s.state.Mirror = true
	}
	v.Path = path.Join(mirrorDir, v.Name)
	if err := s.watchVolume(v, key); err != nil {
		return err
	}
	if err := s.mirror(ctx, v); err != nil {
		s.unwatch(v, key)
		return err
	}
	return nil
}

// mirror brings the guest's copy to the host's state. What fails half way is done again
// as a whole by the next call.
func (s *Set) mirror(ctx context.Context, v *volume) error {
	t, err := readVolume(v)
	if err != nil {
		return err
	}
	files, remove := update(v.Sums, t)
	for i := range files {
		files[i].Path = path.Join(v.Path, files[i].Path)
	}
	for _, batch := range batches(files) {
		if err := s.opts.Guest.Put(ctx, batch); err != nil {
			return fmt.Errorf("write mirrored volume: %w", err)
		}
	}
	if len(remove) > 0 {
		for i := range remove {
			remove[i] = path.Join(v.Path, remove[i])
		}
		if err := s.opts.Guest.Remove(ctx, remove); err != nil {
			return fmt.Errorf("remove what a volume no longer has: %w", err)
		}
	}
	v.Sums = t.sums()
	if v.Kind == kindFile {
		v.Content = sum(agent.File{Content: t.files[""].Content})
	}
	return nil
}

func readVolume(v *volume) (tree, error) {
	if v.Kind == kindFile {
		return readFile(v)
	}
	return readTree(v.Source)
}

// batches splits files, in order, into calls that are not too large.
func batches(files []agent.File) [][]agent.File {
	var out [][]agent.File
	start, bytes := 0, 0
	for i, f := range files {
		if bytes += len(f.Content); bytes > putBytes && i > start {
			out = append(out, files[start:i])
			start, bytes = i, len(f.Content)
		}
	}
	if start < len(files) {
		out = append(out, files[start:])
	}
	return out
}

// Flush copies what a container wrote into single files back to the host. It comes after
// the container's end and before that is told.
func (s *Set) Flush(ctx context.Context, container string) error {
	ctx, release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if s.opts.Guest == nil {
		return nil // with the machine went what it had
	}
	var errs []error
	for _, v := range s.state.Volumes {
		if v.Kind == kindFile && v.Writable && slices.Contains(v.Users, container) {
			if err := s.copyBack(ctx, v); err != nil {
				errs = append(errs, fmt.Errorf("copy %q back: %w", v.Source, err))
			}
		}
	}
	return errors.Join(errs...)
}

// copyBack writes the guest's content into the host's file if it is not what both had
// last. The guest is not trusted: all it can do is to fill that one file, up to maxFile.
func (s *Set) copyBack(ctx context.Context, v *volume) error {
	f, err := s.opts.Guest.Get(ctx, v.Path)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(f.Content) > maxFile {
		f.Content = f.Content[:maxFile]
	}
	content := sum(agent.File{Content: f.Content})
	if content == v.Content {
		return nil
	}
	if err := rewrite(v, f.Content); err != nil {
		return err
	}
	v.Content = content
	// The watcher finds what it expects then, and has nothing to tell the guest.
	if t, err := readFile(v); err == nil {
		v.Sums = t.sums()
	}
	return nil
}

// rewrite replaces the content of the very file that was mounted, in place. One that has
// been replaced or removed since is nobody's business any more.
func rewrite(v *volume, content []byte) error {
	fd, err := openExactly(unix.AT_FDCWD, v.Source, unix.O_WRONLY|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), v.Source)
	defer f.Close()
	if same, err := v.same(fd); err != nil || !same {
		return err
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(content)))
}

// same tells whether an open file is the very one that was mounted.
func (v *volume) same(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Dev == v.Dev && st.Ino == v.Ino, nil
}
