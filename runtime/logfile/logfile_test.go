package logfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2016, 10, 6, 0, 17, 9, 669794202, time.UTC)

const stamp = "2016-10-06T00:17:09.669794202Z"

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"a line", []string{"hello\n"}, "F hello"},
		{"an empty line", []string{"\n"}, "F "},
		{"two lines at once", []string{"a\nb\n"}, "F a|F b"},
		{"a line in two writes", []string{"he", "llo\n"}, "F hello"},
		{"no end", []string{"x\nhello"}, "F x|P hello"},
		{"exactly full", []string{"12345678\n"}, "F 12345678"},
		{"one too long", []string{"123456789\n"}, "P 12345678|F 9"},
		{"long in pieces", []string{"1234", "5678", "9abcdefgh", "i\n"}, "P 12345678|P 9abcdefg|F hi"},
		{"full without an end", []string{"12345678"}, "P 12345678"},
		{"carriage return stays", []string{"a\r\n"}, "F a\r"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var set Set
			path := filepath.Join(t.TempDir(), "log")
			l := set.Open(path, 8)
			s := l.Stream("stdout")
			for _, w := range c.writes {
				s.Write([]byte(w), noon)
			}
			s.Flush(noon)
			l.Close()
			var want strings.Builder
			for w := range strings.SplitSeq(c.want, "|") {
				fmt.Fprintf(&want, "%s stdout %s\n", stamp, w)
			}
			if got := read(t, path); got != want.String() {
				t.Errorf("log = %q, want %q", got, want.String())
			}
		})
	}
}

func TestStreamsDoNotMix(t *testing.T) {
	var set Set
	path := filepath.Join(t.TempDir(), "log")
	l := set.Open(path, 0)
	out, errs := l.Stream("stdout"), l.Stream("stderr")
	out.Write([]byte("one "), noon)
	errs.Write([]byte("error\n"), noon)
	out.Write([]byte("line\n"), noon)
	l.Close()
	if got, want := read(t, path), stamp+" stderr F error\n"+stamp+" stdout F one line\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}

func TestTornEndIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	whole := stamp + " stdout F whole\n"
	if err := os.WriteFile(path, []byte(whole+stamp+" stdo"), 0o600); err != nil {
		t.Fatal(err)
	}
	var set Set
	l := set.Open(path, 0)
	l.Stream("stdout").Write([]byte("next\n"), noon)
	l.Close()
	if got, want := read(t, path), whole+stamp+" stdout F next\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}

func TestMissingDirectoryIsTriedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "late")
	path := filepath.Join(dir, "log")
	var set Set
	l := set.Open(path, 0)
	s := l.Stream("stdout")
	now := time.Now()
	s.Write([]byte("lost\n"), now)
	if l.Err() == nil || l.Dropped() == 0 {
		t.Errorf("err = %v, dropped = %d: the loss must be told", l.Err(), l.Dropped())
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("kept\n"), now.Add(2*reopenInterval))
	l.Close()
	if got := read(t, path); !strings.HasSuffix(got, " stdout F kept\n") || strings.Contains(got, "lost") {
		t.Errorf("log = %q", got)
	}
}

func TestReopenFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var set Set
	l := set.Open(path, 0)
	s := l.Stream("stdout")
	s.Write([]byte("before\nha"), noon)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("lf\n"), noon)
	l.Close()
	if got := read(t, path+".1"); got != stamp+" stdout F before\n" {
		t.Errorf("rotated log = %q", got)
	}
	if got := read(t, path); got != stamp+" stdout F half\n" {
		t.Errorf("log = %q", got)
	}
}

func TestFullDiskDropsAndGoesOn(t *testing.T) {
	var set Set
	l := set.Open("/dev/full", 0)
	s := l.Stream("stdout")
	s.Write(bytes.Repeat([]byte("line\n"), 1000), noon)
	if l.Err() == nil || l.Dropped() == 0 {
		t.Errorf("err = %v, dropped = %d", l.Err(), l.Dropped())
	}
	l.Close()
}

// BenchmarkWrite measures input of 100-byte lines; the log goes to /dev/null, since a
// disk would be measured otherwise.
func BenchmarkWrite(b *testing.B) {
	var set Set
	l := set.Open("/dev/null", 0)
	defer l.Close()
	s := l.Stream("stdout")
	batch := bytes.Repeat([]byte(strings.Repeat("z", 99)+"\n"), 656)[:64<<10-1]
	b.SetBytes(int64(len(batch)))
	for b.Loop() {
		s.Write(batch, time.Now())
	}
}
