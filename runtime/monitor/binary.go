package monitor

import (
	"bytes"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// binaries are programs, executed by way of mounts on which they cannot be written. crun, executed
// from elsewhere, makes such a mount itself in every call and executes itself a second time,
// lest a container write to the program through /proc/PID/exe (CVE-2019-5736).
type binaries struct {
	mu   sync.Mutex
	open map[string]boundFile // by path
}

// boundFile is a detached, read-only mount of a file.
type boundFile struct {
	mount    int
	name     string
	dev, ino uint64
}

// execute calls fn, which is to start the program of rt, with a name for it that is good until
// fn returns. It is the program's path where another is of no use, or there can be no such
// mount.
func (p *binaries) execute(rt oci.Runtime, fn func(name string) error) error {
	if !rt.Crun() {
		return fn(rt.Path)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	have, err := p.current(rt.Path)
	if err != nil {
		return fn(rt.Path) // its error says what is wrong, if it is with the file
	}
	return fn(have.name)
}

// current returns the mount of what is at path now: a package may have been upgraded.
func (p *binaries) current(path string) (boundFile, error) {
	var now unix.Stat_t
	if err := unix.Stat(path, &now); err != nil {
		return boundFile{}, fmt.Errorf("look at program: %w", err)
	}
	have, ok := p.open[path]
	if ok && have.dev == now.Dev && have.ino == now.Ino {
		return have, nil
	}
	if ok {
		unix.Close(have.mount)
		delete(p.open, path)
	}
	opened, err := openBinary(path)
	if err != nil {
		return boundFile{}, err
	}
	if p.open == nil {
		p.open = map[string]boundFile{}
	}
	p.open[path] = opened
	return opened, nil
}

func openBinary(path string) (boundFile, error) {
	if err := checkBinary(path); err != nil {
		return boundFile{}, err
	}
	mount, err := cloneMount(path, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil {
		return boundFile{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(mount, &st); err != nil {
		unix.Close(mount)
		return boundFile{}, fmt.Errorf("look at program: %w", err)
	}
	// Not of the child's own descriptors, which it moves about before it executes anything.
	self, err := os.Readlink("/proc/self")
	if err != nil {
		unix.Close(mount)
		return boundFile{}, fmt.Errorf("find own process: %w", err)
	}
	return boundFile{mount: mount, name: fmt.Sprintf("/proc/%s/fd/%d", self, mount), dev: st.Dev, ino: st.Ino}, nil
}

// checkBinary refuses scripts: their interpreter would look for a descriptor that is closed.
func checkBinary(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := f.Read(magic); err != nil || !bytes.Equal(magic, []byte("\x7fELF")) {
		return fmt.Errorf("program is no ELF file: %w", unix.ENOEXEC)
	}
	return nil
}
