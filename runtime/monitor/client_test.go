package monitor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
)

// TestCallOfADyingMonitor: a call that a monitor hung up on unread is made again, one
// that it had read is not.
func TestCallOfADyingMonitor(t *testing.T) {
	for name, tt := range map[string]struct {
		unread, read int // connections that are closed before or after the call is read
		want         error
	}{
		"one died":         {unread: 1},
		"two died":         {unread: dyingMonitors - 1},
		"all died":         {unread: dyingMonitors, want: unix.ECONNRESET},
		"died at its work": {read: 1, want: io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for n := 0; ; n++ {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					first := make([]byte, 1)
					_, _ = conn.Read(first) // the rest is on its way, and unread
					if n >= tt.unread {
						_, _, _ = readFrame(io.MultiReader(&oneByte{b: first[0]}, conn), nil)
					}
					if n >= tt.unread+tt.read {
						respond(conn, Info{Pid: 7}, nil)
					}
					conn.Close()
				}
			}()
			info, err := NewClient(DialUnix(path)).Hello(t.Context())
			if !errors.Is(err, tt.want) || err == nil && info.Pid != 7 {
				t.Errorf("got %v, %v", info, err)
			}
		})
	}
}

// answering is a client whose monitor answers every call with one frame.
func answering(t *testing.T, payload []byte) *Client {
	t.Helper()
	return NewClient(func(context.Context) (net.Conn, error) {
		ours, theirs := socketPair(t)
		go func() {
			defer theirs.Close()
			if _, _, err := readFrame(theirs, nil); err == nil {
				_ = writeFrame(theirs, frameHeader, payload)
			}
			_, _ = io.Copy(io.Discard, theirs)
		}()
		return ours, nil
	})
}

// TestRepliesAreBounded: a guest's monitor says no more than there is to be said.
func TestRepliesAreBounded(t *testing.T) {
	long := []byte(`{"v":1,"kind":"not_found","error":"` + strings.Repeat("x", maxReply) + `"}`)
	c := answering(t, long)
	for name, call := range map[string]func() error{
		"state": func() error { _, err := c.State(t.Context(), "c"); return err },
		"exec": func() error {
			_, err := c.Exec(t.Context(), "c", ExecRequest{}, runtime.Streams{Stdout: io.Discard})
			return err
		},
		"attach": func() error { return c.Attach(t.Context(), "c", runtime.Streams{Stdout: io.Discard}) },
		"log":    func() error { return c.Log(t.Context(), LogRequest{ID: "c"}, nil) },
		"checkpoint": func() error {
			return c.Checkpoint(t.Context(), "c", CheckpointRequest{Images: "/i", Work: "/w", Programs: "/p", Timeout: time.Minute}, nil)
		},
	} {
		if err := call(); !errdefs.IsUnavailable(err) || errdefs.IsNotFound(err) {
			t.Errorf("%s: %.100v", name, err)
		}
	}
	if err := readReply(bytes.NewReader(frame(frameHeader, uint32(len(long)), string(long))), nil); !errdefs.IsUnavailable(err) {
		t.Errorf("readReply: %.100v", err)
	}
	entries := `{"v":1,"body":[` + strings.Repeat(`{"id":"pod"},`, 1<<15) + `{"id":"pod"}]}`
	if list, err := answering(t, []byte(entries)).List(t.Context()); err != nil || len(list) != 1<<15+1 {
		t.Errorf("%d entries of a long list, %.100v", len(list), err)
	}
}

// TestErrorsAreFitForLogs: they come from guests, too.
func TestErrorsAreFitForLogs(t *testing.T) {
	c := answering(t, []byte(`{"v":1,"kind":"not_found","error":"a\nlevel=error \u001b[2J`+strings.Repeat("x", 8*maxError/7)+`"}`))
	_, err := c.State(t.Context(), "c")
	if !errdefs.IsNotFound(err) || len(err.Error()) != maxError || !strings.HasPrefix(err.Error(), "a?level=error ?[2Jxx") {
		t.Errorf("%d bytes: %.100q", len(err.Error()), err)
	}
}

// TestLongErrorKeepsItsKind: what a monitor says at length comes cut off.
func TestLongErrorKeepsItsKind(t *testing.T) {
	ours, theirs := socketPair(t)
	go respond(theirs, nil, errdefs.ErrNotFound.WithMessage(strings.Repeat("x", 2*maxReply)))
	if err := readReply(ours, nil); !errdefs.IsNotFound(err) || len(err.Error()) != maxError {
		t.Errorf("%.100v", err)
	}
}
