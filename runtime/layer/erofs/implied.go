package erofs

import (
	"slices"

	"golang.org/x/sys/unix"
)

// HasImplied tells whether Implied would find any.
func (i *Image) HasImplied() bool { return i.implied }

// Implied returns the paths of the directories that the tar has names in
// and says nothing of, each behind those that it lies in. They have mode 0755, owner 0:0
// and no attributes (IsDefault), which is right only if no lower layer knows better. The
// error wraps errdefs.ErrDataLoss for an image that is no tree within the limits.
func (i *Image) Implied(l Limits) ([]string, error) {
	if !i.implied {
		return nil, nil
	}
	t := newTree(l.withDefaults())
	root, err := i.read(t, 0)
	if err != nil {
		return nil, err
	}
	var paths []string
	t.implied(root, "", &paths)
	slices.Sort(paths)
	return paths, nil
}

func (t *tree) implied(dir *node, path string, paths *[]string) {
	for c, n := range t.children(dir) {
		if !n.isDir() {
			continue
		}
		within := path + "/" + string(t.text.at(c.name))
		if n.implied {
			*paths = append(*paths, within)
		}
		t.implied(n, within, paths)
	}
}

// IsDefault tells whether a directory, xattrs aside, is what one is that is only implied.
func IsDefault(st *unix.Stat_t) bool {
	return st.Mode == unix.S_IFDIR|0o755 && st.Uid == 0 && st.Gid == 0
}
