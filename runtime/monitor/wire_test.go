package monitor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// bareServer answers calls and supervises nothing: it must not reap this process's
// children.
func bareServer() *Server {
	return &Server{log: slog.New(slog.DiscardHandler), containers: map[string]*container{}, pending: map[string]chan struct{}{},
		holds: map[string]*held{}, conns: map[net.Conn]struct{}{}}
}

func talk(t testing.TB, b []byte) {
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); bareServer().ServeConn(context.Background(), theirs) }()
	go io.Copy(io.Discard, ours)
	ours.SetWriteDeadline(time.Now().Add(5 * time.Second))
	ours.Write(b)
	ours.Close()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the server hangs")
	}
}

func frame(kind byte, n uint32, payload string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, n)
	return append(b, payload...)
}

func FuzzServeConn(f *testing.F) {
	for _, b := range [][]byte{
		nil, {1}, frame(1, 2, "{}"), frame(1, 1<<31, "x"), frame(99, 1, "x"), frame(frameStdin, 3, "abc"), frame(1, 5, "nu"), frame(1, 4, "null"),
		frame(1, 26, `{"v":1,"op":"list","id":1}`), frame(1, 29, `{"v":1,"op":"create","body":5`), frame(1, 38, `{"v":1,"oldest":1,"op":"hold","body":0}`),
		frame(1, 51, `{"v":1,"oldest":1,"op":"hold","body":{"id":"../../x"}}`),
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte("hold")) && bytes.Contains(b, []byte("namespaces")) || bytes.Contains(b, []byte("create")) {
			return // would start processes
		}
		talk(t, b)
	})
}

func TestFramesAreBounded(t *testing.T) {
	_, _, err := readFrame(bytes.NewReader(frame(frameStdout, maxData+1, "")), nil)
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("large frame: %v", err)
	}
	_, _, err = readFrame(bytes.NewReader(frame(frameHeader, 100, "short")), nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short frame: %v", err)
	}
	var b bytes.Buffer
	if err := writeFrame(&b, frameStdout, make([]byte, maxData+1)); !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("write of a large frame: %v", err)
	}
}

func TestVersionsMustOverlap(t *testing.T) {
	client := NewClient(func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go bareServer().ServeConn(context.Background(), theirs)
		return ours, nil
	})
	if _, err := client.Hello(t.Context()); err != nil {
		t.Errorf("hello: %v", err)
	}
	ours, theirs := net.Pipe()
	go bareServer().ServeConn(context.Background(), theirs)
	go writeJSON(ours, frameHeader, request{Version: Version + 5, Oldest: Version + 1, Op: "hello"})
	if err := readReply(ours, nil); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("a client of the future: %v", err)
	}
}

func TestSlowClientIsCutOff(t *testing.T) {
	var tee tee
	p := tee.add()
	for range teeQueue/maxData + 1 {
		tee.write(frameStdout, make([]byte, maxData))
	}
	if _, more, _ := tee.next(p); !more {
		t.Error("what was queued is lost")
	}
	if _, more, err := tee.next(p); more || !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Errorf("next = %v, %v", more, err)
	}
}
