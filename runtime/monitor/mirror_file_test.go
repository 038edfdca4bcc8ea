package monitor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Where a monitor dies between noting lines and having written them, the next one goes
// on so that they are there once.
func TestMirrorFileSettles(t *testing.T) {
	const old, lines, next = "old\n", "line one\nline two\n", "next\n"
	for _, c := range []struct {
		name string
		// written is how much of lines came into the file before the death.
		written int
		rotate  bool
		remove  bool
		wantTo  int64
		want    string // in the file that lines went to
	}{
		{"before the write", 0, false, false, 100, old + lines + next},
		{"in the middle", 12, false, false, 100, old + lines + next},
		{"after it", len(lines), false, false, 118, old + lines + next},
		{"after it, rotated", len(lines), true, false, 118, old + lines},
		{"before it, rotated", 0, true, false, 100, old},
		{"in the middle, rotated", 12, true, false, 100, old},
		{"after it, removed", len(lines), true, true, 118, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path, notes := filepath.Join(dir, "log"), filepath.Join(dir, "position")
			if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := openMirrorFile(path, notes, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.note(position{From: 100, To: 118, Inode: m.inode, Size: m.size, Bytes: int64(len(lines))}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.log.WriteString(lines[:c.written]); err != nil {
				t.Fatal(err)
			}
			m.end() // as far as it got
			file := path
			if c.rotate {
				file = path + ".20261124"
				if err := os.Rename(path, file); err != nil {
					t.Fatal(err)
				}
			}
			if c.remove {
				os.Remove(file)
			}
			if m, err = openMirrorFile(path, notes, 0); err != nil {
				t.Fatal(err)
			}
			defer m.end()
			if m.next() != c.wantTo {
				t.Errorf("it goes on at %d, want %d", m.next(), c.wantTo)
			}
			rest := next
			if m.next() == 100 {
				rest = lines + next
			}
			if err := m.write([]byte(rest), 123); err != nil {
				t.Fatal(err)
			}
			if b, _ := os.ReadFile(file); string(b) != c.want {
				t.Errorf("the file has %q, want %q", b, c.want)
			}
			if b, _ := os.ReadFile(path); c.rotate && string(b) != rest {
				t.Errorf("the new file has %q, want %q", b, rest)
			}
		})
	}
}

func TestMirrorFileWithTornPosition(t *testing.T) {
	dir := t.TempDir()
	p := position{From: 1, To: 2, Inode: 3, Size: 4, Bytes: 5}
	b := p.encode()
	if got, ok := decodePosition(b); !ok || got != p {
		t.Errorf("decoded %+v, %v", got, ok)
	}
	b[3] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "position"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := openMirrorFile(filepath.Join(dir, "log"), filepath.Join(dir, "position"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer m.end()
	if m.next() != 0 {
		t.Errorf("a position that is not to be believed is %d", m.next())
	}
}

func TestMirrorFileDropsWhatHasNoRoom(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	m, err := openMirrorFile(path, filepath.Join(dir, "position"), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer m.end()
	for i, line := range []string{"12345\n", "67890\n", "abc\n"} {
		if err := m.write([]byte(line), int64(10*(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	if b, _ := os.ReadFile(path); string(b) != "12345\nabc\n" || m.dropped != 6 || m.next() != 30 {
		t.Errorf("file %q, dropped %d, next %d", b, m.dropped, m.next())
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := m.reopen(); err != nil {
		t.Fatal(err)
	}
	if err := m.write([]byte("new\n"), 40); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "new\n" {
		t.Errorf("after rotation: %q", b)
	}
}

// A disk that is full in the middle of a line costs this line and the rest of the batch.
func TestMirrorFileOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	mountTmpfs(t, dir, "size=64k")
	state := t.TempDir()
	path, notes := filepath.Join(dir, "log"), filepath.Join(state, "position")
	m, err := openMirrorFile(path, notes, 0)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 99) + "\n"
	if err := m.write([]byte(strings.Repeat(line, 1000)), 100_000); err != nil {
		t.Fatal(err)
	}
	m.end()
	if m, err = openMirrorFile(path, notes, 0); err != nil {
		t.Fatal(err)
	}
	defer m.end()
	if m.next() != 100_000 {
		t.Errorf("next = %d", m.next())
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 60_000 || len(b)%100 != 0 || strings.Count(string(b), line) != len(b)/100 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// The log of a container whose making was taken back, before it wrote anything, is not made
// again by the next monitor; one that has something to write makes it.
func TestMirrorFileDoesNotComeAgain(t *testing.T) {
	dir := t.TempDir()
	path, notes := filepath.Join(dir, "log"), filepath.Join(dir, "position")
	m, err := openMirrorFile(path, notes, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.end()
	if err := os.Remove(path); err != nil {
		t.Fatalf("the first monitor: %v", err)
	}
	if m, err = openMirrorFile(path, notes, 0); err != nil {
		t.Fatal(err)
	}
	defer m.end()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the next monitor has made the log: %v", err)
	}
	if err := m.write([]byte("line\n"), 5); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "line\n" {
		t.Errorf("the log has %q", b)
	}
}
