package erofs

import (
	"bytes"
	"hash/maphash"
	"iter"
	"slices"
)

// text keeps names one behind the other, each after a byte with its length, so that a
// million of them cost what their bytes are and nothing to the garbage collector.
type text struct{ chunks [][]byte }

const (
	chunkBits = 16
	chunkSize = 1 << chunkBits
	// maxText is the most bytes of names that a place, of 32 bits, can tell apart.
	maxText = 1 << 31
)

// add keeps a name of at most maxName bytes and returns its place.
func (x *text) add(name string) uint32 {
	last := len(x.chunks) - 1
	if last < 0 || len(x.chunks[last])+1+len(name) > chunkSize {
		x.chunks = append(x.chunks, make([]byte, 0, chunkSize))
		last++
	}
	place := uint32(last)<<chunkBits | uint32(len(x.chunks[last]))
	x.chunks[last] = append(append(x.chunks[last], byte(len(name))), name...)
	return place
}

// at is the name at a place; it is not to be changed.
func (x *text) at(place uint32) []byte {
	rest := x.chunks[place>>chunkBits][place%chunkSize:]
	return rest[1 : 1+int(rest[0])]
}

// child is a name in a directory: the places of its text and of its node.
type child struct{ name, node uint32 }

// names are the children of a directory: a hash table with linear probing until the
// directory is sorted, a list from then on. A slot without a node is empty.
type names struct {
	slots  []child
	used   int
	sorted bool
}

// find returns the slot that a name has in a table, or would get. It is nil in a table
// without slots.
func (t *tree) find(d *names, name string) *child {
	if len(d.slots) == 0 {
		return nil
	}
	mask := uint64(len(d.slots) - 1)
	for i := maphash.String(t.seed, name) & mask; ; i = (i + 1) & mask {
		if s := &d.slots[i]; s.node == 0 || string(t.text.at(s.name)) == name {
			return s
		}
	}
}

// child returns what a directory has under a name, or nil.
func (t *tree) child(dir *node, name string) *node {
	if s := t.find(&dir.more.names, name); s != nil && s.node != 0 {
		return t.node(s.node)
	}
	return nil
}

// set gives a directory a name for a node, or the name that it has to that node.
func (t *tree) set(dir *node, name string, n *node) {
	d := &dir.more.names
	s := t.find(d, name)
	if s == nil || s.node == 0 {
		if (d.used+1)*5 > len(d.slots)*4 {
			t.grow(d)
			s = t.find(d, name)
		}
		s.name = t.text.add(name)
		d.used++
	}
	s.node = n.id
}

func (t *tree) grow(d *names) {
	old := d.slots
	d.slots = make([]child, max(4, 2*len(old)))
	mask := uint64(len(d.slots) - 1)
	for _, c := range old {
		if c.node == 0 {
			continue
		}
		i := maphash.Bytes(t.seed, t.text.at(c.name)) & mask
		for d.slots[i].node != 0 {
			i = (i + 1) & mask
		}
		d.slots[i] = c
	}
}

// children are those of a directory that is not sorted, in no order; "." and ".." are
// not among them. The directory must not get new names meanwhile.
func (t *tree) children(dir *node) iter.Seq2[child, *node] {
	return func(yield func(child, *node) bool) {
		for _, c := range dir.more.slots {
			if c.node != 0 && !yield(c, t.node(c.node)) {
				return
			}
		}
	}
}

// sort brings a directory into the order of the format, "." and ".." included; those
// of its children that keep refuses are left out. It has no names to look for then.
func (t *tree) sort(dir *node) {
	d := &dir.more.names
	if d.sorted {
		return
	}
	list := make([]child, 0, d.used+2)
	list = append(list, child{t.dot, dir.id}, child{t.dotdot, dir.more.parent.id})
	for c, n := range t.children(dir) {
		if !n.gone {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b child) int { return bytes.Compare(t.text.at(a.name), t.text.at(b.name)) })
	*d = names{slots: list, sorted: true}
}
