package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/image"
)

// bars shows how far layers are: a bar each on a terminal, and a line for each that is
// done elsewhere. It is safe for concurrent use.
type bars struct {
	out   io.Writer
	width int // columns; 0 if out is no terminal
	now   func() time.Time

	mu    sync.Mutex
	order []digest.Digest
	by    map[digest.Digest]*bar
	lines int // drawn, which the next drawing overwrites
	drawn time.Time
}

type bar struct {
	image.LayerProgress
	began, ended time.Time
}

func newBars(out *os.File) *bars {
	return &bars{out: out, width: columns(out), now: time.Now, by: map[digest.Digest]*bar{}}
}

// columns is the width of a terminal, 0 for what is none.
func columns(f *os.File) int {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if ws.Col == 0 {
		return 80
	}
	return int(ws.Col)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && columns(f) > 0
}

// redraw is how often a terminal is drawn at most.
const redraw = 100 * time.Millisecond

// report takes news of a layer.
func (b *bars) report(p image.LayerProgress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	l := b.by[p.Layer]
	if l == nil {
		l = &bar{began: now}
		b.by[p.Layer] = l
		b.order = append(b.order, p.Layer)
	}
	was := l.Stored
	l.LayerProgress = p
	if p.Stored && !was {
		l.ended = now
		if b.width == 0 {
			fmt.Fprintln(b.out, l.plain())
		}
	}
	if b.width > 0 && now.Sub(b.drawn) >= redraw {
		b.draw(now)
	}
}

// close draws the last state.
func (b *bars) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.width > 0 && len(b.order) > 0 {
		b.draw(b.now())
	}
}

func (b *bars) draw(now time.Time) {
	var text strings.Builder
	if b.lines > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", b.lines)
	}
	for _, id := range b.order {
		text.WriteString("\r\x1b[K" + b.by[id].line(now, b.width) + "\n")
	}
	b.lines, b.drawn = len(b.order), now
	fmt.Fprint(b.out, text.String())
}

func (l *bar) name() string { return l.Layer.Encoded()[:12] }

// plain is the line of a layer that is done.
func (l *bar) plain() string {
	if l.Present {
		return fmt.Sprintf("layer %s is there already", l.name())
	}
	return fmt.Sprintf("layer %s is done: %s in %s", l.name(), bytesText(l.Done), l.ended.Sub(l.began).Round(10*time.Millisecond))
}

// line is the layer's line on a terminal: bytes, rate, time left.
func (l *bar) line(now time.Time, width int) string {
	figures := ""
	switch {
	case l.Present:
		figures = "there already"
	case l.Stored:
		figures = fmt.Sprintf("%s in %s", bytesText(l.Done), l.ended.Sub(l.began).Round(10*time.Millisecond))
	default:
		figures = l.figures(now.Sub(l.began))
	}
	left := l.name() + " "
	room := min(width-len(left)-1-44, 40) // 44 for the longest figures
	if room >= 8 && l.Total > 0 {
		left += gauge(room, l.Done, l.Total, l.Stored) + " "
	}
	return clip(left+figures, width-1)
}

func (l *bar) figures(took time.Duration) string {
	text := bytesText(l.Done)
	if l.Total > 0 {
		text += " of " + bytesText(l.Total)
	}
	rate := float64(l.Done) / took.Seconds()
	if l.Done == 0 || took <= 0 {
		return text
	}
	text += ", " + bytesText(int64(rate)) + "/s"
	if l.Total > l.Done {
		text += ", " + time.Duration(float64(l.Total-l.Done)/rate*float64(time.Second)).Round(time.Second).String() + " left"
	}
	return text
}

func gauge(width int, done, total int64, whole bool) string {
	full := width - 2
	n := full
	if !whole {
		n = int(min(int64(full), int64(full)*done/total))
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", full-n) + "]"
}

func clip(s string, width int) string {
	if len(s) > width {
		return s[:max(width, 0)]
	}
	return s
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 3 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %cB", v, "kMGT"[i])
}
