package monitor

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const logStamp = "2016-10-06T00:17:09.669794202Z"

func TestLineFilter(t *testing.T) {
	good := func(text string) string { return logStamp + " stdout F " + text + "\n" }
	for _, c := range []struct {
		name  string
		parts []string
		want  string
	}{
		{"good lines", []string{good("a") + good(""), good("b")}, good("a") + good("") + good("b")},
		{"a piece, and the other stream", []string{logStamp + " stderr P x\n"}, logStamp + " stderr P x\n"},
		{"bytes that are no text", []string{good("\x00\xff\x1b[2J\r")}, good("\x00\xff\x1b[2J\r")},
		{"junk before", []string{"junk\n" + good("a")}, good("a")},
		{"junk between", []string{good("a") + "junk\n\n" + good("b")}, good("a") + good("b")},
		{"no time", []string{strings.Replace(good("a"), "2016", "20x6", 1)}, ""},
		{"no such day", []string{strings.Replace(good("a"), "2016-10-06", "2016-02-31", 1)}, ""},
		{"another zone", []string{strings.Replace(good("a"), "Z ", "+01:00 ", 1)}, ""},
		{"another stream", []string{strings.Replace(good("a"), "stdout", "stdlog", 1)}, ""},
		{"another tag", []string{strings.Replace(good("a"), " F ", " G ", 1)}, ""},
		{"no text", []string{logStamp + " stdout F\n", logStamp + " stdout \n", logStamp + "\n"}, ""},
		{"as long as may be", []string{good(strings.Repeat("a", 100))}, good(strings.Repeat("a", 100))},
		{"too long", []string{good(strings.Repeat("a", 101)) + good("b")}, good("b")},
		{"a line without an end goes, with what follows it", []string{logStamp + " stdout F a", good("hidden"), good("b")}, good("b")},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLineFilter(100)
			var got strings.Builder
			sent := 0
			for _, p := range c.parts {
				sent += len(p)
				got.Write(l.keep([]byte(p)))
			}
			if got.String() != c.want {
				t.Errorf("kept %q, want %q", got.String(), c.want)
			}
			if int(l.rejected) != sent-got.Len() {
				t.Errorf("rejected %d of %d", l.rejected, sent)
			}
		})
	}
}

func FuzzLineFilter(f *testing.F) {
	f.Add([]byte(logStamp+" stdout F a\n"+logStamp+" stderr P b\njunk\n"), uint8(7))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		l := newLineFilter(40)
		first := min(len(b), int(cut))
		out := append(append([]byte(nil), l.keep(b[:first])...), l.keep(b[first:])...)
		if len(out)+int(l.rejected) != len(b) {
			t.Fatalf("%d kept and %d rejected of %d", len(out), l.rejected, len(b))
		}
		for line := range bytes.Lines(out) {
			if !bytes.HasSuffix(line, []byte("\n")) || !validLine(line[:len(line)-1], 40) {
				t.Fatalf("kept %q", line)
			}
		}
	})
}

func TestBudget(t *testing.T) {
	b := budget{rate: 1 << 20}
	now := time.Now()
	if wait := b.charge(0, now); wait != 0 {
		t.Errorf("at first: %v", wait)
	}
	if wait := b.charge(512<<10, now); wait != 0 {
		t.Errorf("half a second's worth at once: %v", wait)
	}
	if wait := b.charge(1<<20, now); wait != time.Second {
		t.Errorf("a second's worth more: %v", wait)
	}
	if wait := b.charge(0, now.Add(time.Second)); wait != 0 {
		t.Errorf("a second later: %v", wait)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.take(ctx, 100<<20); err == nil {
		t.Error("what is over the budget does not wait")
	}
}

func FuzzLogReader(f *testing.F) {
	var sample bytes.Buffer
	frame := append([]byte{0, 0, 0, 0, 0, 0, 0, 3}, "a line\nand"...)
	if err := writeFrame(&sample, frameLog, frame); err != nil {
		f.Fatal(err)
	}
	if err := writeFrame(&sample, frameHeader, []byte(`{"v":1}`)); err != nil {
		f.Fatal(err)
	}
	f.Add(sample.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		last := int64(0)
		l := &logReader{conn: &oneWay{Reader: bytes.NewReader(b)}, mem: new(buffers), deliver: func(at int64, p []byte) error {
			if at < last || len(p) == 0 || len(p) > 2*readSize {
				t.Fatalf("%d bytes at %d after %d", len(p), at, last)
			}
			last = at + int64(len(p))
			return nil
		}}
		_ = l.run()
		if len(l.carry) > 2*readSize {
			t.Fatalf("%d bytes are carried", len(l.carry))
		}
	})
}

// oneWay is a connection whose other side has said everything and reads nothing.
type oneWay struct {
	net.Conn
	io.Reader
}

func (o *oneWay) Read(p []byte) (int, error)  { return o.Reader.Read(p) }
func (o *oneWay) Write(p []byte) (int, error) { return len(p), nil }
