package store

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// commitDelay is how long changes are gathered before they are synced together.
	commitDelay = 500 * time.Millisecond
	// slack is how many bytes of outdated lines the journal may hold at least before
	// it is written anew.
	slack = 1 << 20
	// rewriteSize is a size that is never right: it makes the next write a rewrite.
	rewriteSize = math.MaxInt64 / 2
	// retryDelay is the time between attempts to write what the disk had no room for.
	retryDelay = 10 * time.Second
)

// journal is an append-only file of records, the last line of a key being the one that
// counts. Every line carries a checksum, and reading skips lines that are damaged: a
// torn last line is what a power failure leaves. Writing happens in one goroutine, off
// the path of every request; if the disk is full it is tried again.
type journal struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	pending map[string][]byte // nil value: removed
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}

	// Owned by the goroutine.
	file *os.File // nil until it could be written
	size int64
	last map[string][]byte // what the file says
}

type entry struct {
	Key    string          `json:"key"`
	Record json.RawMessage `json:"record,omitempty"` // none: removed
}

// openJournal returns the records that the journal holds, by kind/id.
func openJournal(dir string, log *slog.Logger) (*journal, map[string][]byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	j := &journal{
		path: filepath.Join(dir, "records"), log: log,
		pending: map[string][]byte{}, wake: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	text, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	var skipped int
	j.last, skipped = readJournal(text)
	if skipped > 0 {
		log.Warn("journal has damaged lines", "path", j.path, "lines", skipped)
	}
	if err := j.rewrite(); err != nil {
		// A full disk: it must be possible to start and to delete. The file stays as it
		// is, and the next change is another attempt.
		log.Error("journal cannot be written", "path", j.path, "error", err)
		j.size = rewriteSize
	}
	old := make(map[string][]byte, len(j.last))
	for k, v := range j.last {
		old[k] = v
	}
	go j.run()
	return j, old, nil
}

// readJournal returns the last record of each key and the number of lines that are
// damaged.
func readJournal(text []byte) (last map[string][]byte, skipped int) {
	last = map[string][]byte{}
	for line := range bytes.Lines(text) {
		e, ok := parseLine(line)
		if !ok {
			skipped++
			continue
		}
		if e.Record == nil {
			delete(last, e.Key)
		} else {
			last[e.Key] = e.Record
		}
	}
	return last, skipped
}

func parseLine(line []byte) (e entry, ok bool) {
	head, body, found := bytes.Cut(line, []byte{' '})
	sum, err := strconv.ParseUint(string(head), 16, 32)
	if !found || err != nil || crc32.ChecksumIEEE(body) != uint32(sum) {
		return e, false
	}
	return e, json.Unmarshal(body, &e) == nil
}

func appendLine(b []byte, key string, record []byte) ([]byte, error) {
	line, err := json.Marshal(entry{key, record})
	if err != nil {
		return b, err
	}
	line = append(line, '\n')
	b = fmt.Appendf(b, "%08x ", crc32.ChecksumIEEE(line))
	return append(b, line...), nil
}

// put notes a change; a nil record removes the key.
func (j *journal) put(key string, record []byte) {
	j.mu.Lock()
	j.pending[key] = record
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

func (j *journal) run() {
	defer close(j.done)
	var retry <-chan time.Time
	for {
		select {
		case <-j.quit:
			j.commit()
			return
		case <-j.wake:
		case <-retry:
		}
		select {
		case <-j.quit:
		case <-time.After(commitDelay):
		}
		retry = nil
		if !j.commit() {
			retry = time.After(retryDelay)
		}
	}
}

// commit writes and syncs what is pending. What cannot be written stays pending, and
// the result is false.
func (j *journal) commit() bool {
	j.mu.Lock()
	batch := j.pending
	j.pending = map[string][]byte{}
	j.mu.Unlock()
	if len(batch) == 0 {
		return true
	}
	err := j.write(batch)
	if err == nil {
		return true
	}
	j.log.Error("journal cannot be written", "path", j.path, "error", err)
	j.mu.Lock()
	defer j.mu.Unlock()
	for k, v := range batch {
		if _, newer := j.pending[k]; !newer {
			j.pending[k] = v
		}
	}
	return false
}

func (j *journal) write(batch map[string][]byte) error {
	var text []byte
	var err error
	live := 0
	for k, v := range batch {
		if v == nil && j.last[k] == nil {
			continue // came and went between two commits
		}
		if text, err = appendLine(text, k, v); err != nil {
			return err
		}
		if v == nil {
			delete(j.last, k)
		} else {
			j.last[k] = v
		}
	}
	for _, v := range j.last {
		live += len(v)
	}
	if j.size+int64(len(text)) > 4*int64(live)+slack {
		err = j.rewrite()
	} else if _, err = j.file.Write(text); err == nil {
		j.size += int64(len(text))
		err = j.file.Sync()
	}
	if err != nil {
		// Part of the batch may be there, and a later sync need not report what this one
		// lost. The next attempt writes all of it anew.
		j.size = rewriteSize
	}
	return err
}

// rewrite replaces the file by one that holds only what counts.
func (j *journal) rewrite() error {
	tmp := j.path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	size, err := j.fill(f)
	if err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(tmp))
	}
	if j.file != nil {
		err = j.file.Close()
	}
	j.file, j.size = f, size
	return errors.Join(err, syncDir(filepath.Dir(j.path)))
}

func (j *journal) fill(f *os.File) (size int64, err error) {
	w := bufio.NewWriter(f)
	for k, v := range j.last {
		line, err := appendLine(nil, k, v)
		if err != nil {
			return 0, err
		}
		size += int64(len(line))
		if _, err := w.Write(line); err != nil {
			return 0, err
		}
	}
	return size, errors.Join(w.Flush(), f.Sync())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// close commits what is pending and stops the goroutine.
func (j *journal) close() error {
	close(j.quit)
	<-j.done
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
