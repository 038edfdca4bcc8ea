package layer

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// hold keeps what is mounted on a directory, so that nothing else gets its number, and returns that.
func hold(t *testing.T, dir string) uint64 {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Dev
}

// mustMount mounts a chain and returns its first directory.
func mustMount(t *testing.T, s *Store, chain ...digest.Digest) string {
	t.Helper()
	dirs, err := s.Mount(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	return dirs[0]
}

// A layer that was replaced by who has not the mounts is mounted anew, and one that was not stays
// as it is, whether the store was open meanwhile or not.
func TestReplacedLayerIsMountedAnew(t *testing.T) {
	for _, c := range []struct{ loop, reopen bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		o := Options{ForceLoop: c.loop, Root: t.TempDir(), State: t.TempDir()}
		s := open(t, o)
		id, raw := makeLayer(t, "a", "1")
		other := ingestAll(t, s, raw, mustLayer(t, "b", "2"))[1]
		before, kept := hold(t, mustMount(t, s, id)), hold(t, mustMount(t, s, other))

		without, err := Open(Options{Root: o.Root})
		if err != nil {
			t.Fatal(err)
		}
		if err := without.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := without.Ingest(t.Context(), id, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		if c.reopen {
			s = open(t, o)
		}
		if after := hold(t, mustMount(t, s, id)); after == before {
			t.Errorf("%+v: the file that was removed is still used", c)
		}
		if after := hold(t, mustMount(t, s, other)); after != kept {
			t.Errorf("%+v: a layer that has not changed is mounted anew", c)
		}
		if m := mountsBelow(t, s.state); len(m) != 2 {
			t.Errorf("%+v: mounts %v", c, m)
		}
	}
}

// Merged metadata that was removed for it is damaged is not used any longer.
func TestMergedIsMountedAnew(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir()})
	chain := ingestAll(t, s, impliedLayers(t)...)
	remade := func() {
		if _, err := s.Flat(t.Context(), chain); err != nil {
			t.Fatal(err)
		}
	}
	for name, then := range map[string]func(){"gone": func() {}, "made again for a machine": remade} {
		before := hold(t, mustMount(t, s, chain...))
		if err := os.Remove(s.merged(chain)); err != nil {
			t.Fatal(err)
		}
		then()
		if after := hold(t, mustMount(t, s, chain...)); after == before {
			t.Errorf("%s: the file that was removed is still used", name)
		}
	}
}

// With a layer goes the mount of its merged metadata, also if that has lost its file.
func TestRemoveUnmountsMergedWithoutFile(t *testing.T) {
	s := open(t, Options{Root: t.TempDir(), State: t.TempDir()})
	chain := ingestAll(t, s, impliedLayers(t)...)
	mustMount(t, s, chain...)
	if err := os.Remove(s.merged(chain)); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), chain[0]); err != nil {
		t.Fatal(err)
	}
	for _, m := range mountsBelow(t, s.state) {
		if strings.Contains(m, flatPrefix) {
			t.Errorf("left mounted: %s", m)
		}
	}
	for _, id := range chain {
		if err := s.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(s.state); err != nil || len(left) != 0 {
		t.Errorf("left of mounts: %v, %v", left, err)
	}
}
