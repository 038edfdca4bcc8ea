package monitor

import (
	"os"

	"golang.org/x/sys/unix"
)

// maxChildLog bounds the log of a child in bytes.
const maxChildLog = 1 << 20

// bounded is a log that keeps the beginning and the end of what is written: when it is
// full its second half starts anew. What cannot be written is lost.
type bounded struct {
	f     *os.File // nil discards
	limit int64
	size  int64
}

const boundedCut = "\n[output is missing here]\n"

func openBounded(path string, limit int64) *bounded {
	b := &bounded{limit: limit}
	if path == "" {
		return b
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return b
	}
	if st, err := f.Stat(); err == nil {
		b.size = st.Size()
	}
	b.f = f
	return b
}

// write appends p, which is shorter than half the limit.
func (b *bounded) write(p []byte) {
	if b.f == nil {
		return
	}
	if b.size+int64(len(p)) > b.limit {
		if b.f.Truncate(b.limit/2) != nil {
			return
		}
		n, _ := b.f.WriteString(boundedCut) // a full disk is told by nothing here
		b.size = b.limit/2 + int64(n)
	}
	n, _ := b.f.Write(p)
	b.size += int64(n)
}

func (b *bounded) close() {
	if b.f != nil {
		b.f.Close()
	}
}
