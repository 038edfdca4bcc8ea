package erofs

import (
	"iter"

	"golang.org/x/sys/unix"
)

// HasImplied tells whether Implied would find any.
func (i *Image) HasImplied() bool { return i.implied }

// Implied walks through the paths, relative to the root, of the directories that the tar has
// names in and says nothing of, each behind those that it lies in. They have mode 0755, owner
// 0:0 and no attributes (IsDefault), which is right only if no lower layer knows better. Those
// that no path leads to, of PATH_MAX, are left out. The error wraps errdefs.ErrDataLoss for an
// image that is no tree within the limits.
func (i *Image) Implied(l Limits) (iter.Seq[string], error) {
	if !i.implied {
		return func(func(string) bool) {}, nil
	}
	t := newTree(l.withDefaults())
	root, err := i.read(t, 0)
	if err != nil {
		return nil, err
	}
	return func(yield func(string) bool) {
		t.implied(root, make([]byte, 0, maxPath+1+maxName), yield)
	}, nil
}

// implied tells whether the walk goes on. All paths are made in one place, for together they
// are as long as a chain of directories is deep, squared.
func (t *tree) implied(dir *node, path []byte, yield func(string) bool) bool {
	for c, n := range t.children(dir) {
		if !n.isDir() {
			continue
		}
		within := append(path, t.text.at(c.name)...)
		if len(within) >= maxPath {
			continue
		}
		if n.implied && !yield(string(within)) {
			return false
		}
		if !t.implied(n, append(within, '/'), yield) {
			return false
		}
	}
	return true
}

// IsDefault tells whether a directory, xattrs aside, is what one is that is only implied.
func IsDefault(st *unix.Stat_t) bool {
	return st.Mode == unix.S_IFDIR|0o755 && st.Uid == 0 && st.Gid == 0
}
