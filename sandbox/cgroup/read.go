package cgroup

import (
	"bytes"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// buffer is larger than the largest file read, memory.stat of v2.
type buffer [16 << 10]byte

// reader reads the figures of one cgroup. All its figures lie in one block, so that a
// measurement costs one allocation and not one for each pointer.
type reader struct {
	tree  *Tree
	path  string
	buf   *buffer
	block []uint64
}

// blockSize is how many figures a runtime.Stat holds, and a few.
const blockSize = 32

func (r *reader) figure(v uint64) *uint64 {
	r.block = append(r.block, v) // never grows beyond its capacity: see blockSize
	return &r.block[len(r.block)-1]
}

// read returns the content of a file, valid until the next read; nil if there is none.
func (r *reader) read(controller, name string) []byte {
	file := r.tree.file(controller, r.path, name)
	if file == "" {
		return nil
	}
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	n := 0
	for n < len(r.buf) {
		m, err := unix.Read(fd, r.buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || m <= 0 {
			break
		}
		n += m
	}
	return r.buf[:n]
}

// number reads a file that holds one number; "max" and no file are not one.
func (r *reader) number(controller, name string) (uint64, bool) {
	return parse(bytes.TrimSpace(r.read(controller, name)))
}

func (r *reader) figureOf(controller, name string) *uint64 {
	if v, ok := r.number(controller, name); ok {
		return r.figure(v)
	}
	return nil
}

// line finds the figure of a line "key value".
func line(content []byte, key string) (uint64, bool) {
	for len(content) > 0 {
		var l []byte
		l, content, _ = bytes.Cut(content, []byte{'\n'})
		if len(l) > len(key) && l[len(key)] == ' ' && string(l[:len(key)]) == key {
			return parse(l[len(key)+1:])
		}
	}
	return 0, false
}

func (r *reader) figureIn(content []byte, key string) *uint64 {
	if v, ok := line(content, key); ok {
		return r.figure(v)
	}
	return nil
}

func parse(digits []byte) (uint64, bool) {
	if len(digits) == 0 {
		return 0, false
	}
	var v uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return v, true
}

// pressure reads a PSI file.
func (r *reader) pressure(name string) *runtime.Pressure {
	content := r.read(v2, name)
	if len(content) == 0 {
		return nil
	}
	var p runtime.Pressure
	for len(content) > 0 {
		var l []byte
		l, content, _ = bytes.Cut(content, []byte{'\n'})
		switch {
		case bytes.HasPrefix(l, []byte("some ")):
			p.Some = pressureLine(l[5:])
		case bytes.HasPrefix(l, []byte("full ")):
			p.Full = pressureLine(l[5:])
		}
	}
	return &p
}

func pressureLine(fields []byte) (p runtime.PressureLine) {
	for field := range bytes.FieldsSeq(fields) {
		key, value, _ := bytes.Cut(field, []byte{'='})
		switch string(key) {
		case "avg10":
			p.Avg10, _ = strconv.ParseFloat(string(value), 64)
		case "avg60":
			p.Avg60, _ = strconv.ParseFloat(string(value), 64)
		case "avg300":
			p.Avg300, _ = strconv.ParseFloat(string(value), 64)
		case "total":
			p.Total, _ = parse(value)
		}
	}
	return p
}
