package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// diskName is a second name of the disk that an emptyDir lies on, in the directory that the
// kubelet made for it: what the kubelet counts there, for sizeLimit and for the pod's
// ephemeral storage, is then what the disk occupies on the host.
const diskName = ".cricket-disk"

// disks is how many emptyDirs have been given room on a disk.
func (s *Set) disks() int {
	n := 0
	for _, v := range s.state.Volumes {
		if v.Kind == kindDisk {
			n++
		}
	}
	return n
}

// showDisk gives file, which holds v and nothing else, its second name, in the place of
// that of an earlier machine. Only one mount of a file system can have both names, which
// need not be the one that the kubelet uses. It fails if they are on different ones.
func (v *volume) showDisk(file string) error {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return &os.PathError{Op: "stat", Path: file, Err: err}
	}
	src, err := openSource(v.Source)
	if err != nil {
		return err
	}
	defer src.close()
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	names, err := mounts.names(src)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range names {
		if err := link(file, filepath.Join(dir, diskName)); err != nil {
			errs = append(errs, err)
			continue
		}
		v.Dev, v.Ino = st.Dev, st.Ino
		return nil
	}
	return errors.Join(errs...)
}

// link gives file another name, in the place of what has it.
func link(file, name string) error {
	temp := name + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Link(file, temp); err != nil {
		return fmt.Errorf("name disk: %w", err)
	}
	// Does nothing if both are names of one file.
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(fmt.Errorf("name disk: %w", err), os.Remove(temp))
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// hideDisk takes the second name away, unless it is another machine's by now or the kubelet
// has removed the directory.
func (v *volume) hideDisk() {
	if v.Kind != kindDisk || v.Ino == 0 {
		return
	}
	var st unix.Stat_t
	name := filepath.Join(v.Source, diskName)
	if unix.Lstat(name, &st) == nil && st.Dev == v.Dev && st.Ino == v.Ino {
		_ = os.Remove(name) // the kubelet removes it at the latest
	}
}
