package erofs

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	paxXattr    = "SCHILY.xattr."
	xattrHeader = 12
	opaqueXattr = "trusted.overlay.opaque"
	// overlayXattrs begin all marks of an overlayfs that is not mounted with userxattr,
	// and none is here.
	overlayXattrs = "trusted.overlay."
)

// ImpliedXattr marks the directories of an image that its tar has names in and says nothing
// of. It is none of overlayfs' marks, but called like one, so that overlayfs shows it to
// nobody.
const ImpliedXattr = overlayXattrs + "implied"

type xattr struct{ name, value string }

// xattrPrefixes are the name spaces that EROFS has numbers for.
var xattrPrefixes = [...]struct {
	prefix string
	index  byte
	exact  bool
}{
	{"user.", 1, false},
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

func xattrIndex(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, found := strings.CutPrefix(name, p.prefix)
		if found && (rest == "") == p.exact {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// readXattrs takes the extended attributes out of PAX records. trusted.overlay.* is
// refused: it would let an image redirect overlayfs to files of its choice. The rest of
// trusted.* is dropped, since it has no meaning inside a container (containerd does not
// set it either), and so is what EROFS has no name space for. The result is sorted by name,
// and no more than an inode can have: whoever merges such lists can do so time and again.
func readXattrs(records map[string]string) (attrs []xattr, dropped int, err error) {
	for key, value := range records {
		name, found := strings.CutPrefix(key, paxXattr)
		if !found {
			continue
		}
		if strings.HasPrefix(name, overlayXattrs) {
			return nil, 0, fmt.Errorf("xattr %.80q, a mark of overlayfs: %w", name, errdefs.ErrInvalidArgument)
		}
		_, rest, known := xattrIndex(name)
		if !known || strings.HasPrefix(name, "trusted.") {
			dropped++
			continue
		}
		if len(rest) > maxName || len(value) > math.MaxUint16 || strings.ContainsRune(name, 0) {
			return nil, 0, fmt.Errorf("xattr %.40q is too long: %w", name, errdefs.ErrInvalidArgument)
		}
		attrs = append(attrs, xattr{name, value})
	}
	if _, err := xattrCount(xattrSize(attrs)); err != nil {
		return nil, 0, err
	}
	slices.SortFunc(attrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return attrs, dropped, nil
}

// mergeXattrs returns old with those of attrs set; all three are sorted by name.
func mergeXattrs(old, attrs []xattr) []xattr {
	merged := make([]xattr, 0, len(old)+len(attrs))
	for len(old) > 0 && len(attrs) > 0 {
		order := strings.Compare(old[0].name, attrs[0].name)
		if order < 0 {
			merged, old = append(merged, old[0]), old[1:]
			continue
		}
		if order == 0 {
			old = old[1:]
		}
		merged, attrs = append(merged, attrs[0]), attrs[1:]
	}
	return append(append(merged, old...), attrs...)
}

// xattrSize is the length of the encoded attributes, a multiple of 4.
func xattrSize(attrs []xattr) int {
	if len(attrs) == 0 {
		return 0
	}
	size := xattrHeader
	for _, a := range attrs {
		_, rest, _ := xattrIndex(a.name)
		size += (4 + len(rest) + len(a.value) + 3) &^ 3
	}
	return size
}

// xattrCount is the size as an inode states it; it has 16 bits.
func xattrCount(size int) (uint16, error) {
	if size == 0 {
		return 0, nil
	}
	count := (size-xattrHeader)/4 + 1
	if count > math.MaxUint16 {
		return 0, fmt.Errorf("xattrs of one file exceed 256 KiB: %w", errdefs.ErrInvalidArgument)
	}
	return uint16(count), nil
}

func appendXattrs(b []byte, attrs []xattr) []byte {
	if len(attrs) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeader)...)
	for _, a := range attrs {
		index, rest, _ := xattrIndex(a.name)
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(a.value)))
		b = append(b, rest...)
		b = append(b, a.value...)
		b = append(b, make([]byte, -(4+len(rest)+len(a.value))&3)...)
	}
	return b
}
