package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/websocket"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
)

func TestMain(m *testing.M) {
	RouteLog(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

const v4 = "v4.channel.k8s.io"

func TestExecStreamsHalfCloseAndExitCode(t *testing.T) {
	s := newServer(t, &fakes{exec: func(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
		in, err := io.ReadAll(e.Streams.Stdin) // ends with the client's half-close
		fmt.Fprintf(e.Streams.Stdout, "out:%s", in)
		fmt.Fprintf(e.Streams.Stderr, "err:%s", e.Args[0])
		return runtime.Exit{Code: 7}, err
	}})
	c := dialSPDY(t, execURL(t, s, &v1.ExecRequest{Stdin: true, Stdout: true, Stderr: true}), v4)
	status, stdin, stdout, stderr := c.open("error"), c.open("stdin"), c.open("stdout"), c.open("stderr")
	io.WriteString(stdin, "hello")
	stdin.Close()
	if got := readAll(t, stdout); got != "out:hello" {
		t.Errorf("stdout = %q", got)
	}
	if got := readAll(t, stderr); got != "err:cmd" {
		t.Errorf("stderr = %q", got)
	}
	var st struct {
		Status, Reason string
		Details        struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(readAll(t, status)), &st); err != nil {
		t.Fatal(err)
	}
	if st.Reason != "NonZeroExitCode" || st.Details.Causes[0].Message != "7" {
		t.Errorf("status = %+v", st)
	}
}

func TestExecStatus(t *testing.T) {
	for name, test := range map[string]struct {
		exit runtime.Exit
		err  error
		want string
	}{
		"success": {want: `{"metadata":{},"status":"Success"}`},
		"unknown": {exit: runtime.Exit{Code: -1, Unknown: true}, want: "exit code of the process is unknown"},
		"error":   {err: errdefs.ErrNotFound.WithMessage("no such file: cmd"), want: "no such file: cmd"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, &fakes{exec: func(context.Context, runtime.ExecConfig) (runtime.Exit, error) { return test.exit, test.err }})
			c := dialSPDY(t, execURL(t, s, &v1.ExecRequest{Stdout: true}), v4)
			status := c.open("error")
			c.open("stdout")
			if got := readAll(t, status); !strings.Contains(strings.ReplaceAll(got, `"metadata":{},`, ""), strings.ReplaceAll(test.want, `"metadata":{},`, "")) {
				t.Errorf("status = %s, want %s", got, test.want)
			}
		})
	}
}

func TestTerminalResize(t *testing.T) {
	sizes := make(chan runtime.Size, 2)
	s := newServer(t, &fakes{attach: func(ctx context.Context, st runtime.Streams) error {
		if !st.Terminal || st.Stderr != nil {
			t.Errorf("streams = %+v", st)
		}
		sizes <- <-st.Resize
		sizes <- <-st.Resize
		return nil
	}})
	resp, err := s.GetAttach(&v1.AttachRequest{ContainerId: "c", Tty: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	c := dialSPDY(t, resp.Url, v4)
	status, _, resize := c.open("error"), c.open("stdout"), c.open("resize")
	fmt.Fprint(resize, `{"Width":80,"Height":24}`)
	fmt.Fprint(resize, `{"Width":132,"Height":50}`)
	if a, b := <-sizes, <-sizes; a != (runtime.Size{Width: 80, Height: 24}) || b != (runtime.Size{Width: 132, Height: 50}) {
		t.Errorf("sizes = %v %v", a, b)
	}
	if got := readAll(t, status); !strings.Contains(got, "Success") {
		t.Errorf("status = %s", got)
	}
}

func TestExecOverWebSocket(t *testing.T) {
	s := newServer(t, &fakes{exec: func(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
		line := make([]byte, 5)
		_, err := io.ReadFull(e.Streams.Stdin, line)
		e.Streams.Stdout.Write(bytes.ToUpper(line))
		return runtime.Exit{Code: 3}, err
	}})
	url := execURL(t, s, &v1.ExecRequest{Stdin: true, Stdout: true})
	ws, err := websocket.Dial(strings.Replace(url, "http://", "ws://", 1), v4, "http://localhost")
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if err := websocket.Message.Send(ws, append([]byte{0}, "hello"...)); err != nil {
		t.Fatal(err)
	}
	got := map[byte]string{}
	for {
		var frame []byte
		if err := websocket.Message.Receive(ws, &frame); err != nil {
			break
		}
		got[frame[0]] += string(frame[1:])
	}
	if got[1] != "HELLO" || !strings.Contains(got[3], `"message":"3"`) {
		t.Errorf("frames = %v", got)
	}
}

// A session in which nothing is written must still end when its client leaves.
func TestClientLeavesSilentSession(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	s := newServer(t, &fakes{attach: func(ctx context.Context, st runtime.Streams) error {
		close(began)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}})
	resp, err := s.GetAttach(&v1.AttachRequest{ContainerId: "c", Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	c := dialSPDY(t, resp.Url, v4)
	c.open("error")
	c.open("stdout")
	<-began
	c.conn.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the session outlives its client")
	}
}

// A connection that asks for nothing more is closed; a session in which nothing moves is not.
func TestIdleConnectionsAreClosed(t *testing.T) {
	s := newServerWith(t, Options{KeepAlive: 100 * time.Millisecond}, &fakes{exec: func(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
		_, err := io.ReadAll(e.Streams.Stdin)
		return runtime.Exit{}, err
	}})
	session := dialSPDY(t, execURL(t, s, &v1.ExecRequest{Stdin: true, Stdout: true}), v4)
	status, stdin := session.open("error"), session.open("stdin")
	session.open("stdout")
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte(" 404 ")) {
		t.Errorf("answered %q, then %v", answer, err)
	}
	stdin.Close()
	if got := readAll(t, status); !strings.Contains(got, "Success") {
		t.Errorf("status of the session = %s", got)
	}
}

func TestCloseEndsSessionsWithAnError(t *testing.T) {
	s := newServer(t, &fakes{exec: func(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
		e.Streams.Stdout.Write([]byte("x"))
		<-ctx.Done()
		return runtime.Exit{}, ctx.Err()
	}})
	c := dialSPDY(t, execURL(t, s, &v1.ExecRequest{Stdout: true}), v4)
	status, stdout := c.open("error"), c.open("stdout")
	io.ReadFull(stdout, make([]byte, 1))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, status); !strings.Contains(got, "the runtime is shutting down") {
		t.Errorf("status = %s", got)
	}
	if _, err := http.Get("http://" + s.Addr().String()); err == nil {
		t.Error("still listening")
	}
}

func TestTokensAreGoodOnce(t *testing.T) {
	s := newServer(t, &fakes{exec: func(context.Context, runtime.ExecConfig) (runtime.Exit, error) { return runtime.Exit{}, nil }})
	url := execURL(t, s, &v1.ExecRequest{Stdout: true})
	dialSPDY(t, url, v4)
	resp, err := http.Post(url, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("second use: %s", resp.Status)
	}
}

func TestRequestsAreValidated(t *testing.T) {
	s := newServer(t, &fakes{})
	for name, call := range map[string]func() error{
		"no streams": func() error { _, err := s.GetExec(&v1.ExecRequest{ContainerId: "c", Cmd: []string{"x"}}); return err },
		"no command": func() error { _, err := s.GetExec(&v1.ExecRequest{ContainerId: "c", Stdout: true}); return err },
		"tty and stderr": func() error {
			_, err := s.GetAttach(&v1.AttachRequest{ContainerId: "c", Tty: true, Stderr: true, Stdout: true})
			return err
		},
		"port": func() error {
			_, err := s.GetPortForward(&v1.PortForwardRequest{PodSandboxId: "s", Port: []int32{70000}})
			return err
		},
	} {
		if call() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	_, err := New(Options{Address: "0.0.0.0:0", Log: slog.New(slog.DiscardHandler)}, &fakes{})
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("open address: %v", err)
	}
}

// echoPod listens as a pod does: it answers with what it got after the client's
// half-close.
func echoPod(t *testing.T) func(context.Context, int) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c)
				c.Write(all)
			}()
		}
	}()
	return func(ctx context.Context, port int) (net.Conn, error) {
		if port != 80 {
			return nil, errdefs.ErrInvalidArgument
		}
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func TestPortForwardBothWays(t *testing.T) {
	s := newServer(t, &fakes{dial: echoPod(t)})
	c := dialSPDY(t, portForwardURL(t, s), "portforward.k8s.io")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	for id := range 2 {
		data, errs := c.openPort(id)
		go func() { io.Copy(data, struct{ io.Reader }{bytes.NewReader(big)}); data.Close() }()
		h := sha256.New()
		n, err := io.Copy(h, data)
		if err != nil || n != int64(len(big)) || !bytes.Equal(h.Sum(nil), sum(big)) {
			t.Errorf("%d bytes came back, error %v", n, err)
		}
		if got := readAll(t, errs); got != "" {
			t.Errorf("error stream: %s", got)
		}
	}
}

func sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

func TestPortForwardRefused(t *testing.T) {
	opened := make(chan struct{})
	s := newServer(t, &fakes{dial: func(context.Context, int) (net.Conn, error) {
		<-opened // a stream that is reset at once cannot be opened
		return nil, errors.New("connection refused")
	}})
	c := dialSPDY(t, portForwardURL(t, s), "portforward.k8s.io")
	_, errs := c.openPort(0)
	close(opened)
	line := make([]byte, 1024)
	n, _ := errs.Read(line)
	if !strings.Contains(string(line[:n]), "connection refused") {
		t.Errorf("error stream: %q", line[:n])
	}
}
