package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// position says how far the log of a guest has come into a file of the host. It is
// written before the lines are, so that after any death the file itself tells whether
// they came to be written.
type position struct {
	From, To int64  // offsets in the guest's log of what is written last
	Inode    uint64 // of the file it goes to
	Size     int64  // of the file before
	Bytes    int64  // that are added
}

// positionSize is five numbers and a checksum.
const positionSize = 5*8 + 4

func (p position) encode() []byte {
	b := make([]byte, 0, positionSize)
	for _, v := range []uint64{uint64(p.From), uint64(p.To), p.Inode, uint64(p.Size), uint64(p.Bytes)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func decodePosition(b []byte) (position, bool) {
	if len(b) != positionSize || crc32.ChecksumIEEE(b[:positionSize-4]) != binary.BigEndian.Uint32(b[positionSize-4:]) {
		return position{}, false
	}
	n := func(i int) int64 { return int64(binary.BigEndian.Uint64(b[i*8:])) }
	return position{From: n(0), To: n(1), Inode: uint64(n(2)), Size: n(3), Bytes: n(4)}, true
}

// mirrorFile is a log of the host that lines from a guest are appended to, each exactly
// once whatever dies in between. What cannot be written is dropped and counted.
type mirrorFile struct {
	path    string
	max     int64    // bytes that the file may have; 0 is no limit
	notes   *os.File // the position
	at      position
	log     *os.File // nil if it cannot be opened at present
	size    int64
	inode   uint64
	tried   time.Time
	dropped int64
	ended   bool
}

// openMirrorFile goes on where an earlier monitor left off.
func openMirrorFile(path, notes string, limit int64) (*mirrorFile, error) {
	f, err := os.OpenFile(notes, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open position: %w", err)
	}
	m := &mirrorFile{path: path, max: limit, notes: f}
	b := make([]byte, positionSize)
	_, err = f.ReadAt(b, 0)
	anew := errors.Is(err, io.EOF)
	if err == nil {
		m.at, _ = decodePosition(b)
	} else if !anew {
		f.Close()
		return nil, fmt.Errorf("read position: %w", err)
	}
	m.settle()
	// A log that has gone since the last monitor, before anything was written to it, is that
	// of a container which was not made after all: it must not come again.
	if _, err := os.Lstat(path); err == nil || anew || m.at.To > 0 {
		m.ready(time.Now())
	}
	return m, nil
}

// next is the offset that is wanted next.
func (m *mirrorFile) next() int64 { return m.at.To }

// settle finds out whether what was begun last was written.
func (m *mirrorFile) settle() {
	if m.at.Bytes == 0 {
		return
	}
	file := findInode(m.path, m.at.Inode)
	if file == "" {
		return // rotated away since: between the note and the write there is next to no time
	}
	st, err := os.Lstat(file)
	if err != nil || st.Size() >= m.at.Size+m.at.Bytes {
		return
	}
	if st.Size() > m.at.Size && os.Truncate(file, m.at.Size) != nil {
		return
	}
	m.at.To, m.at.Bytes = m.at.From, 0
}

// findInode looks for a file at path, or beside it, where rotation puts it.
func findInode(path string, inode uint64) string {
	is := func(file string) bool {
		var st unix.Stat_t
		return unix.Lstat(file, &st) == nil && st.Ino == inode && st.Mode&unix.S_IFMT == unix.S_IFREG
	}
	if is(path) {
		return path
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if file := filepath.Join(filepath.Dir(path), e.Name()); is(file) {
			return file
		}
	}
	return ""
}

// reopen opens the path anew (rotation). The file in use stays if that fails.
func (m *mirrorFile) reopen() error {
	f, err := os.OpenFile(m.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return fmt.Errorf("reopen log: %w", err)
	}
	m.close()
	m.log, m.size, m.inode = f, st.Size, st.Ino
	if m.ended {
		return nil
	}
	return m.note(position{From: m.at.To, To: m.at.To, Inode: m.inode, Size: m.size})
}

// reopenInterval is how often a log that cannot be opened is tried again.
const reopenInterval = time.Second

func (m *mirrorFile) ready(now time.Time) bool {
	if m.log == nil && now.Sub(m.tried) >= reopenInterval {
		m.tried = now
		_ = m.reopen() // what is lost meanwhile is counted
	}
	return m.log != nil
}

// write appends lines that stand for everything up to an offset of the guest's log.
func (m *mirrorFile) write(lines []byte, to int64) error {
	if !m.ready(time.Now()) || m.max > 0 && m.size+int64(len(lines)) > m.max {
		m.dropped += int64(len(lines))
		lines = nil
	}
	if err := m.note(position{From: m.at.To, To: to, Inode: m.inode, Size: m.size, Bytes: int64(len(lines))}); err != nil {
		return err
	}
	if len(lines) == 0 {
		return nil
	}
	n, err := m.log.Write(lines)
	m.size += int64(n)
	if err == nil {
		return nil
	}
	whole := int64(bytes.LastIndexByte(lines[:n], '\n') + 1)
	if torn := int64(n) - whole; torn > 0 && m.log.Truncate(m.size-torn) == nil {
		m.size -= torn
	}
	m.dropped += int64(len(lines)) - whole
	return m.note(position{From: to, To: to, Inode: m.inode, Size: m.size})
}

// note is one small write(2) into the page cache: no signal tears it.
func (m *mirrorFile) note(p position) error {
	if _, err := m.notes.WriteAt(p.encode(), 0); err != nil {
		return fmt.Errorf("note position: %w", err)
	}
	m.at = p
	return nil
}

// end closes both files. Nothing is written any more, though reopen still makes a file.
func (m *mirrorFile) end() {
	m.ended = true
	m.close()
	m.notes.Close() // may be called twice
}

// close closes the log; the position stays open.
func (m *mirrorFile) close() {
	if m.log != nil {
		m.log.Close()
		m.log = nil
	}
}
