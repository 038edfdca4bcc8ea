package agent

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/wirekind"
)

// Version of the calls. Operations and fields may be added without a new one: both
// sides ignore fields they do not know, and an unknown operation is ErrNotImplemented.
const Version = 1

// A call is one message each way on a stream of its own: the length of all that follows
// (32 bit, big endian), that of the JSON (32 bit), the JSON, and the content of files one
// after the other.
const (
	maxRequest = 16 << 20
	maxAnswer  = 4 << 20
	maxContent = 1 << 20 // of a file that is read
	maxSmall   = 64 << 10
	maxError   = 1 << 10
)

type request struct {
	Version int    `json:"v"`
	Op      string `json:"op"`
	// Timeout is what is left of the caller's time in nanoseconds; 0 is no limit.
	Timeout time.Duration   `json:"timeout,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

type answer struct {
	Kind  string          `json:"kind,omitempty"`
	Error string          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// writeMessage writes a message with a single Write.
func writeMessage(w io.Writer, v any, content []byte, limit int) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	n := 4 + len(text) + len(content)
	if n > limit {
		return fmt.Errorf("message of %d bytes: %w", n, errdefs.ErrResourceExhausted)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+n), uint32(n))
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	b = append(b, text...)
	_, err = w.Write(append(b, content...))
	return err
}

// readMessage reads a message of at most limit bytes.
func readMessage(r io.Reader, limit int) (text, content []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, nil, err
	}
	all, n := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if all > uint32(limit) || all < 4 || n > all-4 {
		return nil, nil, fmt.Errorf("message of %d bytes with %d of text: %w", all, n, errdefs.ErrResourceExhausted)
	}
	b := make([]byte, all-4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, nil, err
	}
	return b[:n:n], b[n:], nil
}

// wireFile is a file whose content is behind the JSON.
type wireFile struct {
	File
	Size int `json:"size,omitempty"`
}

// packFiles takes the contents out of files.
func packFiles(files []File) (packed []wireFile, content []byte) {
	size := 0
	for _, f := range files {
		size += len(f.Content)
	}
	content = make([]byte, 0, size)
	for _, f := range files {
		content = append(content, f.Content...)
		w := wireFile{File: f, Size: len(f.Content)}
		w.Content = nil
		packed = append(packed, w)
	}
	return packed, content
}

// unpackFiles gives files their contents, which must be all there is.
func unpackFiles(packed []wireFile, content []byte) (files []File, err error) {
	for _, w := range packed {
		if w.Size < 0 || w.Size > len(content) {
			return nil, invalid("file of %d bytes, of which %d are there", w.Size, len(content))
		}
		w.Content, content = content[:w.Size:w.Size], content[w.Size:]
		files = append(files, w.File)
	}
	if len(content) > 0 {
		return nil, invalid("%d bytes that belong to no file", len(content))
	}
	return files, nil
}

func failed(err error) answer {
	text := err.Error()
	return answer{Kind: wirekind.Of(err), Error: text[:min(len(text), maxError)]}
}

// remoteError is an error that happened in the guest, in its words.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// err returns the error of an answer, or nil.
func (a *answer) err() error {
	if a.Kind == "" {
		return nil
	}
	return &remoteError{text: "guest: " + wirekind.Clean(a.Error, maxError), kind: wirekind.Named(a.Kind)}
}
