package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// fake answers QMP commands as the test wants.
func fake(t *testing.T, serve func(conn *net.UnixConn, lines *bufio.Scanner)) (*Client, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn, bufio.NewScanner(conn))
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	t.Cleanup(cancel)
	c, err := Dial(ctx, path)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// greet plays QEMU up to command mode.
func greet(conn *net.UnixConn, lines *bufio.Scanner) {
	fmt.Fprintln(conn, `{"timestamp": {}, "event": "EARLY"}`)
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	reply(conn, lines, `"return": {}`)
}

func reply(w io.Writer, lines *bufio.Scanner, answer string) (command string) {
	if !lines.Scan() {
		return ""
	}
	var r struct {
		Execute string `json:"execute"`
		ID      uint64 `json:"id"`
	}
	_ = json.Unmarshal(lines.Bytes(), &r)
	fmt.Fprintf(w, "{\"id\": %d, %s}\n", r.ID, answer)
	return r.Execute
}

func TestCommandsAndEvents(t *testing.T) {
	c, err := fake(t, func(conn *net.UnixConn, lines *bufio.Scanner) {
		greet(conn, lines)
		reply(conn, lines, `"return": {"fdset-id": 7}`)
		fmt.Fprintln(conn, `{"event": "MIGRATION", "data": {"status": "completed"}}`)
		reply(conn, lines, `"error": {"class": "GenericError", "desc": "no such device"}`)
		reply(conn, lines, `"return": 5`)
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	w := c.Watch()
	defer w.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := c.Execute(ctx, "add-fd", nil, &set); err != nil || set.ID != 7 {
		t.Errorf("answer %+v, %v", set, err)
	}
	var refused *Error
	if err := c.Execute(ctx, "device_del", nil, nil); !errors.As(err, &refused) || refused.Error() != "device_del: no such device" {
		t.Errorf("refusal is %v", err)
	}
	if err := c.Execute(ctx, "wrong", nil, &set); !errdefs.IsInternal(err) {
		t.Errorf("answer of another type: %v", err)
	}
	<-c.Done()
	if err := c.Execute(ctx, "late", nil, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("after the end: %v", err)
	}
	if e, err := w.Next(ctx); err != nil || e.Name != "MIGRATION" || !strings.Contains(string(e.Data), "completed") {
		t.Errorf("event %+v, %v", e, err)
	}
	if _, err := w.Next(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("event after the end: %v", err)
	}
}

// A command whose time is over before it is sent costs the connection nothing.
func TestNoTime(t *testing.T) {
	c, err := fake(t, func(conn *net.UnixConn, lines *bufio.Scanner) {
		greet(conn, lines)
		reply(conn, lines, `"return": {}`)
	})
	if err != nil {
		t.Fatal(err)
	}
	late, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	if err := c.Execute(late, "late", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command without time: %v", err)
	}
	if err := c.Execute(context.Background(), "next", nil, nil); err != nil {
		t.Errorf("the next command: %v", err)
	}
}

func TestFileIsPassed(t *testing.T) {
	content := make(chan string, 1)
	c, err := fake(t, func(conn *net.UnixConn, lines *bufio.Scanner) {
		greet(conn, lines)
		b, oob := make([]byte, 4096), make([]byte, 64)
		n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		fds, _ := unix.ParseUnixRights(&messages[0])
		f := os.NewFile(uintptr(fds[0]), "passed")
		defer f.Close()
		got, _ := io.ReadAll(f)
		content <- string(got)
		reply(conn, bufio.NewScanner(strings.NewReader(string(b[:n]))), `"return": {}`)
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("inside"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.Execute(context.Background(), "getfd", map[string]any{"fdname": "x"}, nil, f); err != nil {
		t.Fatal(err)
	}
	if got := <-content; got != "inside" {
		t.Errorf("QEMU reads %q", got)
	}
}

// Whatever comes, the client ends with an error and in bounded memory.
func TestGarbage(t *testing.T) {
	for name, say := range map[string]string{
		"no JSON":  "hello\n",
		"too long": strings.Repeat("x", MaxMessage+1),
		"nothing":  "",
		"types":    `{"QMP": 1, "event": 5}` + "\n",
	} {
		_, err := fake(t, func(conn *net.UnixConn, _ *bufio.Scanner) { _, _ = io.WriteString(conn, say) })
		if !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// QEMU lets a second client wait without a word.
func TestSilence(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent QEMU: %v", err)
	}
}
