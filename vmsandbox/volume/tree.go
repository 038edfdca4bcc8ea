package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// dataLink is the link that the kubelet's atomic writer exchanges to publish a new state
// of a volume. What the pod sees are links through it.
const dataLink = "..data"

// errNotMirrored says that a volume is too large for mirroring, or has in it what the
// kubelet does not put there.
var errNotMirrored = errors.New("cannot be mirrored")

// tree is what was read of a volume: relative paths, "" for the volume itself.
type tree struct {
	files map[string]agent.File
	data  string // target of dataLink, empty for a single file
}

// sums identifies the content of a tree without keeping it.
func (t tree) sums() map[string]string {
	out := make(map[string]string, len(t.files))
	for name, f := range t.files {
		out[name] = sum(f)
	}
	return out
}

func sum(f agent.File) string {
	h := sha256.New()
	fmt.Fprintf(h, "%o %d %d %d\n", f.Mode, f.UID, f.GID, len(f.Content))
	h.Write(f.Content)
	return hex.EncodeToString(h.Sum(nil)[:16]) // text: it goes into State
}

// validData accepts names of directories that the atomic writer makes.
func validData(target string) bool {
	return strings.HasPrefix(target, "..") && target != ".." && !strings.Contains(target, "/")
}

// readTree reads a whole API volume in one state: it starts anew if the kubelet
// exchanges ..data meanwhile. No symbolic link is followed.
func readTree(dir string) (tree, error) {
	root, err := openMirrored(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return tree{}, fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(root)
	for range 8 {
		before, err := readlinkAt(root, dataLink)
		if err != nil {
			return tree{}, fmt.Errorf("read %s of volume: %w", dataLink, err)
		}
		r := &treeReader{files: map[string]agent.File{}}
		readErr := r.dir(root, "", before)
		after, err := readlinkAt(root, dataLink)
		if err == nil && before == after {
			if readErr == nil && !validData(before) {
				readErr = fmt.Errorf("%s leads to %q: %w", dataLink, before, errNotMirrored)
			}
			return tree{files: r.files, data: before}, readErr
		}
	}
	return tree{}, fmt.Errorf("read volume that keeps changing: %w", errdefs.ErrUnavailable)
}

// readFile reads a single file as a tree of one. As with a bind mount, another file that has
// taken its name is not read.
func readFile(v *volume) (tree, error) {
	fd, err := openMirrored(unix.AT_FDCWD, v.Source, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return tree{}, fmt.Errorf("open volume: %w", err)
	}
	f := os.NewFile(uintptr(fd), v.Source)
	defer f.Close()
	same, err := v.same(fd)
	if err != nil {
		return tree{}, fmt.Errorf("stat volume: %w", err)
	}
	if !same {
		return tree{}, fmt.Errorf("volume is another file than was mounted: %w", errNotMirrored)
	}
	r := &treeReader{files: map[string]agent.File{}}
	err = r.content(f, "")
	return tree{files: r.files}, err
}

type treeReader struct {
	files map[string]agent.File
	bytes int64
}

// dir reads the open directory fd. Of a volume's top only the current state is of
// interest: older ones, which the kubelet is about to remove, are passed over.
func (r *treeReader) dir(fd int, rel, data string) error {
	if err := r.note(fd, "", rel); err != nil {
		return err
	}
	names, err := list(fd)
	if err != nil {
		return fmt.Errorf("list volume: %w", err)
	}
	for _, name := range names {
		if rel == "" && strings.HasPrefix(name, "..") && name != dataLink && name != data {
			continue
		}
		if err := r.entry(fd, name, path.Join(rel, name)); err != nil {
			return err
		}
	}
	return nil
}

func (r *treeReader) entry(dir int, name, rel string) error {
	if len(r.files) >= maxEntries {
		return fmt.Errorf("more than %d entries: %w", maxEntries, errNotMirrored)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("stat %q of volume: %w", rel, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %q of volume: %w", rel, err)
		}
		defer unix.Close(fd)
		return r.dir(fd, rel, "")
	case unix.S_IFLNK:
		target, err := readlinkAt(dir, name)
		if err != nil {
			return fmt.Errorf("read link %q of volume: %w", rel, err)
		}
		r.files[rel] = agent.File{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Content: []byte(target)}
		return nil
	case unix.S_IFREG:
		return r.file(dir, name, rel)
	}
	return fmt.Errorf("%q of volume is neither file, directory nor link: %w", rel, errNotMirrored)
}

func (r *treeReader) file(dir int, name, rel string) error {
	// Opening must not hang on a pipe that has taken the file's place.
	fd, err := openMirrored(dir, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("open %q of volume: %w", rel, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return r.content(f, rel)
}

func (r *treeReader) content(f *os.File, rel string) error {
	if err := r.note(int(f.Fd()), "", rel); err != nil {
		return err
	}
	note := r.files[rel]
	if note.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%q of volume is no longer a file: %w", rel, errNotMirrored)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("read %q of volume: %w", rel, err)
	}
	if r.bytes += int64(len(content)); len(content) > maxFile || r.bytes > maxTree {
		return fmt.Errorf("%q of volume is too large: %w", rel, errNotMirrored)
	}
	note.Content = content
	r.files[rel] = note
	return nil
}

func (r *treeReader) note(fd int, name, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %q of volume: %w", path.Join(rel, name), err)
	}
	r.files[rel] = agent.File{Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	return nil
}

func openMirrored(dir int, name string, flags int) (int, error) {
	fd, err := openExactly(dir, name, flags)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link, a socket
		err = fmt.Errorf("%w: %w", errNotMirrored, err)
	}
	return fd, err
}

func list(dir int) ([]string, error) {
	// A descriptor of its own: the position of the directory is the open file's.
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func readlinkAt(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// update lists what brings a guest from one state of a volume to another: files to write,
// in order, and paths to remove afterwards. Data comes first, the exchange of ..data
// after it, new names then, and what is no longer needed goes last.
func update(have map[string]string, t tree) (files []agent.File, remove []string) {
	names := make([]string, 0, len(t.files))
	for name := range t.files {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := order(a, t.data) - order(b, t.data); d != 0 {
			return d
		}
		return strings.Compare(a, b) // directories before what is in them
	})
	for _, name := range names {
		f := t.files[name]
		if have[name] == sum(f) {
			continue
		}
		f.Path = name
		f.Replace = f.Mode&unix.S_IFMT == unix.S_IFLNK
		files = append(files, f)
	}
	for name := range have {
		if _, still := t.files[name]; !still {
			remove = append(remove, name)
		}
	}
	slices.Sort(remove)
	return files, outermost(remove)
}

func order(name, data string) int {
	switch {
	case name == "":
		return 0
	case name == data || strings.HasPrefix(name, data+"/"):
		return 1
	case name == dataLink:
		return 2
	}
	return 3
}

// outermost drops paths below others of the sorted list.
func outermost(paths []string) []string {
	var out []string
	for _, p := range paths {
		if len(out) > 0 && strings.HasPrefix(p, out[len(out)-1]+"/") {
			continue
		}
		out = append(out, p)
	}
	return out
}
