package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// withXattrs is an entry for a directory with so many attributes, named by numbers from first on.
func withXattrs(name string, first, count int) entry {
	e := dir(name)
	e.PAXRecords = map[string]string{}
	for i := range count {
		e.PAXRecords[paxXattr+"user."+strconv.FormatInt(int64(first+i), 36)] = ""
	}
	return e
}

// inTime writes an image of a tar, and gives up when that takes long.
func inTime(t *testing.T, l Limits, entries ...entry) error {
	t.Helper()
	in := makeTar(t, entries...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := Write(ctx, &memory{}, bytes.NewReader(in), Options{Limits: l})
	return err
}

// Attributes of a directory that a tar has many times are merged in time, as far as they are
// merged at all.
func TestManyXattrs(t *testing.T) {
	const first, many = 36 * 36 * 36, 32_000 // many of them are almost 256 KiB
	same := make([]entry, 20)
	for i := range same {
		same[i] = withXattrs("d", first, many)
	}
	few := []entry{withXattrs("d", first, many)}
	for range 2000 {
		few = append(few, withXattrs("d", first, 1))
	}
	for name, c := range map[string]struct {
		entries []entry
		kind    error
	}{
		"the same":       {same, nil},
		"others":         {[]entry{withXattrs("d", first, many), withXattrs("d", first+many, many)}, errdefs.ErrInvalidArgument},
		"others at once": {[]entry{withXattrs("d", first, 38_000), withXattrs("d", first, 1)}, errdefs.ErrInvalidArgument},
		"few to many":    {few, errdefs.ErrResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			if err := inTime(t, Limits{Entries: 200_000}, c.entries...); !errors.Is(err, c.kind) {
				t.Errorf("error = %v, want %v", err, c.kind)
			}
		})
	}
}

// Names that lead through links without end take no time without end.
func TestManySteps(t *testing.T) {
	entries := []entry{dir("d")}
	for i := range maxLinks - 1 {
		entries = append(entries, symlink(fmt.Sprint("l", i), fmt.Sprintf("l%d/%sd", i+1, strings.Repeat("../d/", 50))))
	}
	entries = append(entries, symlink(fmt.Sprint("l", maxLinks-1), "d"))
	for i := range 20_000 {
		entries = append(entries, file(fmt.Sprint("l0/", i), ""))
	}
	if err := inTime(t, Limits{Entries: 100_000}, entries...); !errdefs.IsResourceExhausted(err) {
		t.Errorf("error = %v, want that the resource is exhausted", err)
	}
}

// Deep directories are no such names, and neither is a link on the way to each.
func TestDeepNames(t *testing.T) {
	const files = 5000
	deep := strings.Repeat("d/", 25)
	entries := []entry{symlink("l", deep)}
	for i := range files {
		entries = append(entries, file(fmt.Sprint("l/", deep, i), ""))
	}
	if err := inTime(t, Limits{Entries: 2 * files}, entries...); err != nil {
		t.Error(err)
	}
}

// Attributes that are set again stay one, in order.
func TestMergeXattrs(t *testing.T) {
	list := func(names, value string) (l []xattr) {
		for _, n := range names {
			l = append(l, xattr{string(n), value})
		}
		return l
	}
	for _, c := range [][3]string{{"", "", ""}, {"ab", "", "a0b0"}, {"", "ab", "a1b1"}, {"acd", "bce", "a0b1c1d0e1"}, {"de", "ab", "a1b1d0e0"}} {
		got := ""
		for _, a := range mergeXattrs(list(c[0], "0"), list(c[1], "1")) {
			got += a.name + a.value
		}
		if got != c[2] {
			t.Errorf("%q with %q is %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
