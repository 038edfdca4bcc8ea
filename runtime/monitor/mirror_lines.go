package monitor

import (
	"bytes"
	"time"

	"github.com/cricket-cri/cricket/runtime/logfile"
)

// lineFilter keeps, of what a guest sends as its log, the lines that are lines of a CRI
// log. Pieces of lines that are too long are no lines.
type lineFilter struct {
	maxLine  int
	broken   bool // in the middle of a line that is none
	rejected int64
}

// logTime is how runtime/logfile writes the time, in UTC.
const logTime = "2006-01-02T15:04:05.000000000Z"

func newLineFilter(maxLine int) lineFilter {
	if maxLine <= 0 {
		maxLine = logfile.DefaultMaxLine
	}
	return lineFilter{maxLine: maxLine}
}

// keep returns p without what is no line. It returns p itself if all are.
func (l *lineFilter) keep(p []byte) []byte {
	good := 0 // p[:good] is kept
	var out []byte
	for rest := p; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(rest)
		}
		ok := whole && !l.broken && validLine(rest[:n-1], l.maxLine)
		l.broken = !whole
		switch {
		case ok && out == nil:
			good += n
		case ok:
			out = append(out, rest[:n]...)
		case out == nil:
			out = append(make([]byte, 0, len(p)), p[:good]...)
		}
		if !ok {
			l.rejected += int64(n)
		}
		rest = rest[n:]
	}
	if out == nil {
		return p
	}
	return out
}

// validLine checks "TIME STREAM TAG text".
func validLine(line []byte, maxText int) bool {
	if len(line) < len(logTime) {
		return false
	}
	at, rest := line[:len(logTime)], line[len(logTime):]
	if _, err := time.Parse(logTime, string(at)); err != nil {
		return false
	}
	for _, stream := range []string{" stdout ", " stderr "} {
		text, ok := bytes.CutPrefix(rest, []byte(stream))
		if ok {
			return len(text) >= 2 && len(text)-2 <= maxText && (text[0] == 'F' || text[0] == 'P') && text[1] == ' '
		}
	}
	return false
}
