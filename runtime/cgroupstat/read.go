package cgroupstat

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
	files Files
	buf   *buffer
	block []uint64
}

// blockSize is how many pointers a runtime.Stat holds, and a few for huge pages.
const blockSize = 64

func (r *reader) figure(v uint64) *uint64 {
	if len(r.block) == cap(r.block) {
		r.block = make([]uint64, 0, blockSize) // the full one lives on behind its pointers
	}
	r.block = append(r.block, v)
	return &r.block[len(r.block)-1]
}

// read returns the content of a file, valid until the next read; nil if there is none.
func (r *reader) read(controller, name string) []byte {
	file := r.files(controller, name)
	if file == "" {
		return nil
	}
	return readFile(file, r.buf[:])
}

// The kernel gives up to a page at a time: what is much shorter is all there is.
const page = 4096

func readFile(file string, buf []byte) []byte {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	n := 0
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || m <= 0 {
			break
		}
		if n += m; m < page/2 {
			break
		}
	}
	return buf[:n]
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

// limit reads a limit, 0 for none.
func (r *reader) limit(controller, name string) *uint64 {
	content := bytes.TrimSpace(r.read(controller, name))
	v, ok := parse(content)
	switch {
	case ok && v < noLimit:
		return r.figure(v)
	case ok || string(content) == "max":
		return r.figure(0)
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

// micros is a figure of microseconds in nanoseconds.
func (r *reader) micros(content []byte, key string) *uint64 {
	if v, ok := line(content, key); ok {
		return r.figure(v * 1000)
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

// Pressure reads a file of the kernel's pressure stall information; nil without it.
func Pressure(file string) *runtime.Pressure {
	return pressure(readFile(file, make([]byte, 512)))
}

func (r *reader) pressure(name string) *runtime.Pressure { return pressure(r.read("", name)) }

func pressure(content []byte) *runtime.Pressure {
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
