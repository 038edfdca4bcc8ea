package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// originSuffix ends the names of links beside the mount points, which say what file is mounted
// on each. A mount stays on its file when that is removed for damage and another has its name,
// and of a mount without a device the kernel does not tell the file.
const originSuffix = ".of"

// origin is what tells a file from all others: what is mounted keeps its inode's number.
func origin(file string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", filepath.Base(file), err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// shows tells whether what is mounted on dir is the file that has that name now.
func shows(dir, file string) (bool, error) {
	if is, err := mounted(dir); !is || err != nil {
		return false, err
	}
	now, err := origin(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	noted, err := os.Readlink(dir + originSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read origin of mount: %w", err)
	}
	return noted == now, nil
}

// mountAnew has a file mounted on dir, in place of any other.
func mountAnew(dir, file string, mount func() error) error {
	if err := unmountAll(dir); err != nil {
		return err
	}
	of, err := origin(file)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if err := os.Symlink(of, dir+originSuffix); err != nil {
		return fmt.Errorf("note origin of mount: %w", err)
	}
	return mount()
}

// behind is the file that belongs on a mount point; ok is false for what is none.
func (s *Store) behind(e fs.DirEntry) (file string, ok bool) {
	if !e.IsDir() {
		return "", false
	}
	if flat, is := strings.CutPrefix(e.Name(), flatPrefix); is {
		return filepath.Join(s.root, mergedDir, flat+blobSuffix), true
	}
	_, ok = mountID(e.Name())
	return s.blob(e.Name()), ok
}

// cleanMounts removes mounts and mount points of files that are gone or replaced.
func (s *Store) cleanMounts() error {
	entries, err := os.ReadDir(s.state)
	if err != nil {
		return fmt.Errorf("list mount points: %w", err)
	}
	for _, e := range entries {
		file, ok := s.behind(e)
		if !ok {
			continue
		}
		is, err := shows(s.target(e.Name()), file)
		if err != nil { // nothing says that it is gone
			s.log.Warn("cannot tell what a mount is of", "mount", e.Name(), "error", err)
		}
		if is || err != nil {
			continue
		}
		s.log.Warn("unmount layer without its file", "mount", e.Name())
		if err := s.unmount(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// unmountOrphans takes away mounts of merged metadata that has no file any more, and with
// that nothing that says of which layers it is.
func (s *Store) unmountOrphans() error {
	entries, err := os.ReadDir(s.state)
	if err != nil {
		return fmt.Errorf("list mount points: %w", err)
	}
	for _, e := range entries {
		file, ok := s.behind(e)
		if !ok || !strings.HasPrefix(e.Name(), flatPrefix) {
			continue
		}
		if err := s.unmountOrphan(s.target(e.Name()), file); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) unmountOrphan(dir, file string) error {
	// Who mounts there waits for layers, one of which the caller has.
	release, ok := s.locks.try(dir)
	if !ok {
		return nil
	}
	defer release()
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return unmountAll(dir)
}
