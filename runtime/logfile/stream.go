package logfile

import (
	"bytes"
	"time"
)

// Stream is standard output or standard error of a container. It has one writer.
type Stream struct {
	file *File
	name string
	tail []byte // the beginning of a line whose end has not come yet
	head []byte // reused
}

// Stream returns the named stream ("stdout" or "stderr").
func (l *File) Stream(name string) *Stream { return &Stream{file: l, name: name} }

// Write logs p, which was read at the given time: the lines it completes at once, the
// rest when its end comes, or in pieces when it gets longer than the log allows. It
// keeps nothing of p and never fails: see File.Dropped.
func (s *Stream) Write(p []byte, at time.Time) {
	if s.file.path == "" {
		return
	}
	head := s.heading(at)
	out := s.file.set.outputs.get()
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		out = s.line(out, head, p[:i])
		p = p[i+1:]
		if len(out) >= flushSize {
			s.file.write(out, at)
			out = out[:0]
		}
	}
	out = s.rest(out, head, p)
	s.file.write(out, at)
	s.file.set.outputs.put(out)
}

// Flush writes the unfinished line, if there is one, as a piece: what comes from the log
// must be what the container wrote, which had no line end.
func (s *Stream) Flush(at time.Time) {
	if len(s.tail) == 0 {
		return
	}
	out := piece(nil, s.heading(at), s.tail, 'P')
	s.tail = nil
	s.file.write(out, at)
}

// Tail returns the unfinished line. Writing it to another Stream continues it there.
func (s *Stream) Tail() []byte { return s.tail }

// heading returns "TIME STREAM F " for this batch.
func (s *Stream) heading(at time.Time) []byte {
	const layout = "2006-01-02T15:04:05.000000000Z07:00"
	b := at.UTC().AppendFormat(s.head[:0], layout)
	b = append(b, ' ')
	b = append(b, s.name...)
	s.head = append(b, " F "...)
	return s.head
}

// line appends one complete line, in pieces if it is too long.
func (s *Stream) line(out, head, line []byte) []byte {
	if len(s.tail) > 0 {
		line = append(s.tail, line...)
		s.tail = nil
	}
	for len(line) > s.file.maxLine {
		out = piece(out, head, line[:s.file.maxLine], 'P')
		line = line[s.file.maxLine:]
	}
	return piece(out, head, line, 'F')
}

// rest keeps the beginning of a line, less the pieces that are full already.
func (s *Stream) rest(out, head, p []byte) []byte {
	if len(p) == 0 {
		return out
	}
	s.tail = append(s.tail, p...)
	for len(s.tail) > s.file.maxLine {
		out = piece(out, head, s.tail[:s.file.maxLine], 'P')
		s.tail = append([]byte(nil), s.tail[s.file.maxLine:]...)
	}
	return out
}

func piece(out, head, text []byte, tag byte) []byte {
	out = append(out, head...)
	out[len(out)-2] = tag
	out = append(out, text...)
	return append(out, '\n')
}
