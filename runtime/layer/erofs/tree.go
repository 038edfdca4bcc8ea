package erofs

import (
	"fmt"
	"hash/maphash"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	maxPath  = 4096 // PATH_MAX
	maxLinks = 40   // followed in one path, as in the kernel
	// stepsPerEntry is how much work (spend) a layer may ask for, for each entry that it may
	// have. Honest ones ask for a dozen an entry that they do have, as deep as that is.
	stepsPerEntry = 64
)

// node is an inode. Several names may lead to one that is not a directory. A layer may
// have a million, hence the order of the fields and what is kept elsewhere.
type node struct {
	more *more // what only some have, or nil

	size       uint64
	mtime      int64
	nsec       uint32
	uid, gid   uint32
	rdev       uint32
	nlink      uint32
	id         uint32 // its place in the tree
	mode       uint16 // with S_IFMT
	whiteout   bool   // stands for a name that the layer deletes
	overDelete bool   // replaces a name of lower layers that the layer deletes, too
	opaque     bool   // hides what lower layers have in this directory
	implied    bool   // a directory that the tar has names in and says nothing of
	gone       bool   // not to be written

	// Set by the layout.
	inline bool
	placed bool
	block  uint32 // of the data
	nid    uint32 // the inode's number: its place in the inode area, in slots
}

// more is what directories have, and symbolic links, and whatever has attributes.
type more struct {
	names         // directories only
	parent *node  // directories only; the root's is itself
	target string // symbolic links only
	xattrs []xattr
}

func (n *node) isDir() bool     { return n.mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) isSymlink() bool { return n.mode&unix.S_IFMT == unix.S_IFLNK }

// own returns the node's more, which it makes if there is none.
func (n *node) own() *more {
	if n.more == nil {
		n.more = &more{}
	}
	return n.more
}

func (n *node) xattrs() []xattr {
	if n.more == nil {
		return nil
	}
	return n.more.xattrs
}

// setXattrs costs nothing where there are none.
func (n *node) setXattrs(attrs []xattr) {
	if len(attrs) > 0 || n.more != nil {
		n.own().xattrs = attrs
	}
}

// tree is the metadata of one layer. Names are resolved in it and nowhere else:
// nothing of the host's file system is ever looked at.
type tree struct {
	root        *node
	limits      Limits
	slabs       [][]node // never moved
	count       uint32   // of nodes, those included that have lost their names
	entries     int      // charged for
	bytes       int64
	steps       int64 // spent
	text        text
	seed        maphash.Seed
	dot, dotdot uint32
}

const slabSize = 256

func newTree(l Limits) *tree {
	t := &tree{limits: l, seed: maphash.MakeSeed()}
	t.dot, t.dotdot = t.text.add("."), t.text.add("..")
	t.root = t.newDir()
	t.root.more.parent, t.root.implied = t.root, false // it is always merged, and not shown
	return t
}

// newNode makes a node that has no name yet.
func (t *tree) newNode() *node {
	at := t.count % slabSize
	if at == 0 {
		t.slabs = append(t.slabs, make([]node, slabSize))
	}
	n := &t.slabs[len(t.slabs)-1][at]
	t.count++
	n.id = t.count
	return n
}

// node is the one with that id.
func (t *tree) node(id uint32) *node { return &t.slabs[(id-1)/slabSize][(id-1)%slabSize] }

// newDir is a directory as it is invented where a tar leaves it out. Lower layers may
// know better what it is like.
func (t *tree) newDir() *node {
	n := t.newNode()
	n.mode, n.nlink, n.more, n.implied = unix.S_IFDIR|0o755, 2, &more{}, true
	return n
}

// charge accounts for entries and for bytes of strings that stay in memory.
func (t *tree) charge(entries, bytes int) error {
	t.entries += entries
	t.bytes += int64(bytes)
	if t.entries > t.limits.Entries {
		return fmt.Errorf("more than %d entries: %w", t.limits.Entries, errdefs.ErrResourceExhausted)
	}
	if t.bytes > t.limits.Metadata {
		return fmt.Errorf("more than %d bytes of names and attributes: %w", t.limits.Metadata, errdefs.ErrResourceExhausted)
	}
	return nil
}

// spend accounts for work that a tar can ask for in no proportion to its length: names that
// lead through links, and attributes that others are merged with.
func (t *tree) spend(steps int) error {
	t.steps += int64(steps)
	if limit := int64(t.limits.Entries) * stepsPerEntry; t.steps > limit {
		return fmt.Errorf("more than %d steps through links and attributes: %w", limit, errdefs.ErrResourceExhausted)
	}
	return nil
}

// cleanPath splits a name of the tar. Leading slashes are dropped, as by GNU tar and
// containerd; a name that leads out of the root is refused, whereas it may climb
// within. No components are left of the root itself.
func cleanPath(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, fmt.Errorf("name of %d bytes: %w", len(name), errdefs.ErrInvalidArgument)
	}
	if strings.ContainsRune(name, 0) {
		return nil, fmt.Errorf("name %q has a NUL: %w", name, errdefs.ErrInvalidArgument)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return nil, fmt.Errorf("name %q leads out of the root: %w", name, errdefs.ErrInvalidArgument)
	}
	if clean == "." {
		return nil, nil
	}
	parts := strings.Split(clean, "/")
	for _, p := range parts {
		if len(p) > maxName {
			return nil, fmt.Errorf("name %.40q… has a component of %d bytes: %w", name, len(p), errdefs.ErrInvalidArgument)
		}
	}
	return parts, nil
}

// dir returns the directory that parts lead to. With create it invents what is
// missing, in the place of files, too; else it answers ErrNotFound. Symbolic links are
// followed as a process with this root would, so "lib/x" lands in usr/lib if the same
// tar has lib -> usr/lib: containerd, Docker and GNU tar agree on that.
func (t *tree) dir(parts []string, create bool) (*node, error) {
	at := t.root
	rest := append([]string(nil), parts...)
	if err := t.spend(len(rest)); err != nil {
		return nil, err
	}
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at.more.parent
			continue
		}
		next := t.child(at, name)
		if next != nil && next.isSymlink() {
			if links++; links > maxLinks {
				return nil, fmt.Errorf("too many symbolic links in %.80q: %w", path.Join(parts...), errdefs.ErrInvalidArgument)
			}
			if strings.HasPrefix(next.more.target, "/") {
				at = t.root
			}
			rest = append(strings.Split(next.more.target, "/"), rest...)
			if err := t.spend(len(rest)); err != nil { // which were copied, too
				return nil, err
			}
			continue
		}
		if next == nil || !next.isDir() {
			if !create {
				return nil, fmt.Errorf("look up %.80q: %w", path.Join(parts...), errdefs.ErrNotFound)
			}
			if strings.HasPrefix(name, whiteoutPrefix) {
				return nil, fmt.Errorf("a link leads to whiteout %.80q: %w", name, errdefs.ErrInvalidArgument)
			}
			next = t.newDir()
			if err := t.put(at, name, next); err != nil {
				return nil, err
			}
		}
		at = next
	}
	return at, nil
}

// put makes n the child of dir under name. What was there is gone, except that a
// directory replacing a deletion hides what lower layers have below that name. An
// entry that replaces another is charged like any: the limit is on work done.
func (t *tree) put(dir *node, name string, n *node) error {
	if len(name) > maxName {
		return fmt.Errorf("name %.40q… has %d bytes: %w", name, len(name), errdefs.ErrInvalidArgument)
	}
	if err := t.charge(1, len(name)); err != nil {
		return err
	}
	if old := t.child(dir, name); old != nil {
		n.overDelete = n.overDelete || old.whiteout || old.overDelete
		t.drop(dir, old)
	}
	if n.isDir() {
		n.more.parent = dir
		dir.nlink++
	} else {
		n.nlink++
	}
	t.set(dir, name, n)
	return nil
}

// become has a directory take over the attributes of a later entry for it.
func (t *tree) become(n, m *node) error {
	if err := t.inherit(n, m); err != nil {
		return err
	}
	return t.charge(1, 0)
}

// inherit has a directory or file take over the attributes of a later entry for it, as what
// other runtimes extract with chown(2), setxattr(2) and chmod(2) does.
func (t *tree) inherit(n, m *node) error {
	n.uid, n.gid, n.mtime, n.nsec, n.implied = m.uid, m.gid, m.mtime, m.nsec, false
	if !n.isSymlink() {
		n.mode = n.mode&unix.S_IFMT | m.mode&^unix.S_IFMT
	}
	if attrs := m.xattrs(); len(attrs) > 0 {
		if err := t.spend(xattrSize(n.xattrs())); err != nil { // each byte is looked at again
			return err
		}
		n.setXattrs(mergeXattrs(n.xattrs(), attrs))
		if _, err := xattrCount(xattrSize(n.xattrs())); err != nil {
			return err
		}
	}
	return nil
}

// drop takes back what the name counted for.
func (t *tree) drop(dir, old *node) {
	if old.isDir() {
		dir.nlink--
		// A hard link may keep files below alive, with one name less.
		for stack := []*node{old}; len(stack) > 0; {
			d := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			for _, c := range t.children(d) {
				if c.isDir() {
					stack = append(stack, c)
				} else {
					c.nlink--
				}
			}
		}
		return
	}
	old.nlink--
}

// link gives the file at target a further name, and the attributes of the entry that says so.
func (t *tree) link(dir *node, name, target string, attributes *node) error {
	parts, err := cleanPath(target)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return fmt.Errorf("hard link to the root: %w", errdefs.ErrInvalidArgument)
	}
	last := len(parts) - 1
	from, err := t.dir(parts[:last], false)
	if err != nil {
		return fmt.Errorf("hard link to %.80q: %w: %w", target, errdefs.ErrInvalidArgument, err)
	}
	n := t.child(from, parts[last])
	switch {
	case n == nil || n.whiteout:
		return fmt.Errorf("hard link to %.80q, which is not in the layer: %w", target, errdefs.ErrInvalidArgument)
	case n.isDir():
		return fmt.Errorf("hard link to directory %.80q: %w", target, errdefs.ErrInvalidArgument)
	}
	// chown(2) takes them from a file, which then has those of the entry, if any.
	n.setXattrs(slices.DeleteFunc(slices.Clone(n.xattrs()), func(a xattr) bool { return a.name == capability }))
	if t.child(dir, name) == n { // to itself, or a second time
		return t.become(n, attributes)
	}
	if err := t.inherit(n, attributes); err != nil {
		return err
	}
	return t.put(dir, name, n)
}

// capability is what makes a program privileged.
const capability = "security.capability"

// whiteOut deletes a name of the lower layers. What this layer itself has under the
// name stays, whatever the order of the two in the tar (OCI image specification,
// "Whiteouts").
func (t *tree) whiteOut(dir *node, name string) error {
	if old := t.child(dir, name); old != nil {
		if old.isDir() {
			old.overDelete = true
		}
		return nil
	}
	n := t.newNode()
	n.mode, n.whiteout = unix.S_IFCHR, true
	return t.put(dir, name, n)
}
