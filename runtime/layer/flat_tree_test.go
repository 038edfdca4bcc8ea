package layer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer/erofs"
)

// mountFlat mounts the disk that files make.
func mountFlat(t testing.TB, files []string, loop bool) string {
	t.Helper()
	disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(disk, f)
		f.Close()
		if err != nil || n%4096 != 0 {
			t.Fatalf("%s: %d bytes, %v", name, n, err)
		}
	}
	dir := t.TempDir()
	if err := (&Store{forceLoop: loop}).mountBlob(disk.Name(), dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mountStack has overlayfs stack the layers' own mounts.
func mountStack(t testing.TB, s *Store, chain []digest.Digest) string {
	t.Helper()
	stack, err := s.stack(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, p := range stack {
		dirs = append(dirs, p.dir)
	}
	return mountOverlay(t, dirs)
}

// mountOverlay stacks mounts, the lowest first, or shows the only one.
func mountOverlay(t testing.TB, dirs []string) string {
	t.Helper()
	if len(dirs) == 1 {
		dirs = append([]string{t.TempDir()}, dirs...)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	check(err)
	defer unix.Close(fd)
	for _, dir := range slices.Backward(dirs) {
		check(unix.FsconfigSetString(fd, "lowerdir+", dir))
	}
	check(unix.FsconfigCreate(fd))
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	check(err)
	defer unix.Close(mnt)
	target := t.TempDir()
	check(unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
	t.Cleanup(func() { check(unix.Unmount(target, unix.MNT_DETACH)) })
	return target
}

// describe lists everything of a tree that a container can see of it: a line for each
// name. What a name shares its inode with is given by the first such name.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	first := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if errors.Is(unix.Lstat(p, &st), unix.ENOENT) {
			return nil // overlayfs lists whiteouts in directories of only one layer
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, root)
		d := fmt.Sprintf("mode %o owner %d:%d time %d.%d device %x", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			d += fmt.Sprintf(" size %d content %s", st.Size, digest.FromBytes(b))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			d += " -> " + target
		}
		if !e.IsDir() {
			key := [2]uint64{st.Dev, st.Ino}
			if first[key] == "" {
				first[key] = name
			}
			d += " same as " + first[key]
		}
		tree[name] = d + " " + xattrs(t, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func xattrs(t testing.TB, path string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || name == erofs.ImpliedXattr {
			continue // overlayfs hides it
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatalf("%s of %s: %v", name, path, err)
		}
		all = append(all, fmt.Sprintf("%s=%x", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// compareFlat wants the flat disk of a chain to show what overlayfs shows, but for what
// directories are like that a layer only implies, and returns how many names that are.
func compareFlat(t testing.TB, s *Store, chain []digest.Digest) int {
	t.Helper()
	files, err := s.Flat(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	want := describe(t, mountStack(t, s, chain))
	flat := mountFlat(t, files, len(chain)%2 == 0) // by file and as a block device
	got := describe(t, flat)
	implied := map[string]bool{}
	for _, id := range chain {
		paths, err := s.implied(id)
		if err != nil {
			t.Fatal(err)
		}
		for p := range paths {
			implied["/"+p] = true
		}
	}
	for name, d := range want {
		if got[name] != d && (!implied[name] || !strings.HasPrefix(got[name], "mode 4")) {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got[name], d)
		}
	}
	for name, d := range got {
		if want[name] == "" {
			t.Errorf("%s should not be there: %s", name, d)
		}
	}
	checkLinks(t, flat)
	return len(got)
}

// checkLinks wants every inode's count of links to be that of its names.
func checkLinks(t testing.TB, root string) {
	t.Helper()
	names, counts := map[uint64]uint64{}, map[uint64]uint64{}
	_ = filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			t.Fatal(err)
		}
		counts[st.Ino] = st.Nlink
		if !e.IsDir() {
			names[st.Ino]++
			return nil
		}
		names[st.Ino] += 2
		if p != root {
			var up unix.Stat_t
			if err := unix.Lstat(filepath.Dir(p), &up); err != nil {
				t.Fatal(err)
			}
			names[up.Ino]++
		}
		return nil
	})
	for ino, n := range names {
		if counts[ino] != n {
			t.Errorf("inode %d has %d links, and %d names", ino, counts[ino], n)
		}
	}
}
