package executor

import (
	"errors"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/inroot"
)

// root is the root directory of a container. Paths are resolved inside it: symbolic
// links, which an image wrote, cannot lead out.
type root struct{ fd int }

func (r root) close() { unix.Close(r.fd) }

// openAt opens a path below the root.
func (r root) openAt(name string, flags int) (int, error) {
	return inroot.Open(r.fd, relative(name), flags)
}

func relative(name string) string {
	if name = strings.TrimPrefix(path.Clean("/"+name), "/"); name == "" {
		return "."
	}
	return name
}

// find returns a descriptor (O_PATH) of what is at a path.
func (r root) find(name string) (int, error) { return r.openAt(name, unix.O_PATH) }

// maxLinks is how many dangling symbolic links are followed to make what they point to.
const maxLinks = 40

// directory returns a descriptor of a directory, which is made with those above it.
func (r root) directory(name string) (int, error) { return r.make(name, makeDirectory, 0) }

// file returns a descriptor of a file that is no directory; an empty one is made.
func (r root) file(name string) (int, error) { return r.make(name, makeFile, 0) }

func makeDirectory(parent int, name string) error { return unix.Mkdirat(parent, name, 0o755) }

func makeFile(parent int, name string) error {
	return unix.Mknodat(parent, name, unix.S_IFREG|0o644, 0)
}

func (r root) make(name string, maker func(parent int, name string) error, links int) (int, error) {
	fd, err := r.find(name)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if links > maxLinks {
		return -1, unix.ELOOP
	}
	name = path.Clean("/" + name)
	if name == "/" {
		return -1, unix.ENOENT
	}
	parent, err := r.make(path.Dir(name), makeDirectory, links)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	err = maker(parent, path.Base(name))
	if errors.Is(err, unix.EEXIST) { // a link that leads nowhere
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(parent, path.Base(name), target)
		if err != nil {
			return -1, err
		}
		next := string(target[:n])
		if !path.IsAbs(next) {
			next = path.Join(path.Dir(name), next)
		}
		return r.make(next, maker, links+1)
	}
	if err != nil {
		return -1, err
	}
	return r.find(name)
}

// read returns what is in a regular file, of which there may be so many bytes.
func (r root) read(name string, most int64) ([]byte, error) {
	fd, err := r.openAt(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > most {
		return nil, errdefs.ErrInvalidArgument
	}
	return io.ReadAll(io.LimitReader(f, most))
}
