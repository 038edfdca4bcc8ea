package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// visits are how often a walk has met each file, by its inode.
type visits map[uint64]int

func (v visits) add(st *unix.Stat_t) { v[st.Ino]++ }

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// makeLevels makes so many directories in each other, each with some files, and returns
// what is in them.
func makeLevels(t *testing.T, dir string, n, files int) []string {
	t.Helper()
	var all []string
	for range n {
		dir = filepath.Join(dir, "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		all = append(all, dir)
		for i := range files {
			name := filepath.Join(dir, strconv.Itoa(i))
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			all = append(all, name)
		}
	}
	return all
}

// levelPath is the path of the nth directory that makeLevels has made.
func levelPath(root string, n int) string { return root + strings.Repeat("/d", n) }

// Each file is visited once, also in directories that were closed in between: below one
// with several chunks of entries are several deep ones.
func TestWalk(t *testing.T) {
	root := t.TempDir()
	all := append(makeLevels(t, root, outer+inner+20, 3), root)
	for i := range 400 {
		dir := filepath.Join(levelPath(root, outer+5), strconv.Itoa(i)+strings.Repeat("x", 40))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		all = append(all, dir)
		if i%100 == 0 {
			all = append(all, makeLevels(t, dir, inner+10, 1)...)
		}
	}
	met := visits{}
	w := &walker{maxLevels: maxLevels}
	w.visit = func(st *unix.Stat_t) {
		met.add(st)
		closed := func(l level) bool { return l.at == nil }
		if open := len(slices.DeleteFunc(slices.Clone(w.levels), closed)); open > outer+inner {
			t.Errorf("%d directories are open", open)
		}
	}
	if err := w.walk(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if n := met[inode(t, path)]; n != 1 {
			t.Errorf("%s is visited %d times", path, n)
		}
	}
	if len(met) != len(all) {
		t.Errorf("%d files are visited, want %d", len(met), len(all))
	}
}

// A directory that is moved while the walk is deep below it loses at most what was around
// it between the outermost and the innermost directories, and that is said.
func TestWalkWhileDirectoriesMove(t *testing.T) {
	const depth = outer + inner + 40
	for name, c := range map[string]struct {
		moved int
		want  error
	}{
		"one of the innermost": {moved: depth - 1},
		"one of the outermost": {moved: outer - 1},
		"one in between":       {moved: outer + 20, want: errMoved},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			all := append(makeLevels(t, root, depth, 1), root)
			must := map[string]uint64{}
			for _, path := range all {
				n := strings.Count(path, "/d") - strings.Count(root, "/d")
				if c.want == nil || n < outer || n >= c.moved {
					must[path] = inode(t, path)
				}
			}
			bottom := inode(t, levelPath(root, depth))
			met := visits{}
			err := walk(t.Context(), root, func(st *unix.Stat_t) {
				met.add(st)
				if st.Ino == bottom && met[bottom] == 1 {
					// The walk is in the one around it.
					if err := os.Rename(levelPath(root, c.moved), filepath.Join(root, "moved")); err != nil {
						t.Error(err)
					}
				}
			})
			if !errors.Is(err, c.want) {
				t.Errorf("walk: %v, want %v", err, c.want)
			}
			for path, ino := range must {
				if met[ino] == 0 {
					t.Errorf("%s is not visited", path)
				}
			}
		})
	}
}

// What is removed while the walk is in it is nothing any more.
func TestWalkWhileDirectoriesGo(t *testing.T) {
	const depth = outer + inner + 40
	root := t.TempDir()
	makeLevels(t, root, depth, 1)
	bottom := inode(t, levelPath(root, depth))
	err := walk(t.Context(), root, func(st *unix.Stat_t) {
		if st.Ino == bottom {
			if err := os.RemoveAll(levelPath(root, 1)); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// What would take too much memory is left out, and the rest is not.
func TestWalkIsBounded(t *testing.T) {
	root := t.TempDir()
	all := append(makeLevels(t, root, 20, 3), root)
	met := visits{}
	w := &walker{visit: met.add, maxLevels: 10}
	if err := w.walk(t.Context(), root); !errdefs.IsResourceExhausted(err) {
		t.Errorf("walk: %v", err)
	}
	// The root and 9 directories with what is in them; the last one's is not looked at.
	if want := 1 + 9*4 + 1; len(met) != want {
		t.Errorf("%d of %d files are visited, want %d", len(met), len(all), want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	err := walk(ctx, root, func(*unix.Stat_t) {
		seen++
		cancel()
	})
	if !errors.Is(err, context.Canceled) || seen != 1 {
		t.Errorf("walk: %v after %d files", err, seen)
	}
}

// Only so many files with several names are told apart.
func TestTallyIsBounded(t *testing.T) {
	total := newTally()
	total.maxLinked = 1
	for _, st := range []unix.Stat_t{
		{Ino: 1, Nlink: 2, Blocks: 2}, {Ino: 2, Nlink: 2, Blocks: 4}, {Ino: 1, Nlink: 2, Blocks: 2},
		{Ino: 3, Nlink: 1, Blocks: 8}, {Ino: 4, Nlink: 5, Blocks: 16, Mode: unix.S_IFDIR},
	} {
		total.add(&st)
	}
	if u := total.usage; u.Inodes != 3 || u.Bytes != 26*512 || !errdefs.IsResourceExhausted(total.missed) || len(total.linked) != 1 {
		t.Errorf("tally: %+v", total)
	}
}
