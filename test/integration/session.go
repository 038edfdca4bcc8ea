package integration

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/moby/spdystream"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Session is a client's end of an exec or attach session. Streams that were not asked
// for are nil.
type Session struct {
	Stdin, Stdout, Stderr, Resize httpstream.Stream

	n      *Node
	conn   httpstream.Connection
	errors httpstream.Stream
}

// dial opens a SPDY connection, as the API server does.
func (n *Node) dial(url, protocol string) httpstream.Connection {
	n.t.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	conn, err := rt.NewConnection(resp)
	if err != nil {
		n.t.Fatalf("open a session: %v", err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// ExecSession starts a command in a container.
func (n *Node) ExecSession(r *cri.ExecRequest) *Session {
	n.t.Helper()
	resp, err := n.Runtime.Exec(n.t.Context(), r)
	if err != nil {
		n.t.Fatalf("exec: %v", err)
	}
	return n.session(resp.GetUrl(), r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty())
}

// AttachSession attaches to a container.
func (n *Node) AttachSession(r *cri.AttachRequest) *Session {
	n.t.Helper()
	resp, err := n.Runtime.Attach(n.t.Context(), r)
	if err != nil {
		n.t.Fatalf("attach: %v", err)
	}
	return n.session(resp.GetUrl(), r.GetStdin(), r.GetStdout(), r.GetStderr(), r.GetTty())
}

func (n *Node) session(url string, stdin, stdout, stderr, tty bool) *Session {
	n.t.Helper()
	s := &Session{n: n, conn: n.dial(url, "v4.channel.k8s.io")}
	open := func(kind string, wanted bool) httpstream.Stream {
		if !wanted {
			return nil
		}
		st, err := s.conn.CreateStream(http.Header{remotecommand.StreamType: {kind}})
		if err != nil {
			n.t.Fatalf("open stream %s: %v", kind, err)
		}
		return st
	}
	s.errors = open("error", true)
	s.Stdin, s.Stdout, s.Stderr = open("stdin", stdin), open("stdout", stdout), open("stderr", stderr)
	s.Resize = open("resize", tty)
	return s
}

// SetSize tells the terminal how large it is.
func (s *Session) SetSize(width, height uint16) {
	s.n.t.Helper()
	if err := json.NewEncoder(s.Resize).Encode(remotecommand.TerminalSize{Width: width, Height: height}); err != nil {
		s.n.t.Errorf("resize: %v", err)
	}
}

// End waits for the session's end and returns the exit code and the message if it is
// not zero; -1 stands for an end that is no exit.
func (s *Session) End() (code int, message string) {
	s.n.t.Helper()
	data, err := io.ReadAll(s.errors)
	if err != nil {
		s.n.t.Fatalf("read the session's end: %v", err)
	}
	var st struct {
		Status, Message, Reason string
		Details                 struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return -1, string(data)
	}
	if st.Status == "Success" {
		return 0, ""
	}
	for _, c := range st.Details.Causes {
		if c.Reason == "ExitCode" {
			code, err := strconv.Atoi(c.Message)
			if err == nil {
				return code, st.Message
			}
		}
	}
	return -1, st.Message
}

// Forward opens a session that forwards ports of a pod. data is nil where the port was refused
// before the stream for it was acknowledged: the streaming library lets one overtake the
// other. What is wrong is said by errs all the same.
func (n *Node) Forward(pod string, ports ...int32) func(port int32, request int) (data, errs httpstream.Stream) {
	n.t.Helper()
	resp, err := n.Runtime.PortForward(n.t.Context(), &cri.PortForwardRequest{PodSandboxId: pod, Port: ports})
	if err != nil {
		n.t.Fatalf("forward ports: %v", err)
	}
	conn := n.dial(resp.GetUrl(), "portforward.k8s.io")
	return func(port int32, request int) (data, errs httpstream.Stream) {
		h := http.Header{}
		h.Set(remotecommand.StreamType, "error")
		h.Set("port", strconv.Itoa(int(port)))
		h.Set("requestID", strconv.Itoa(request))
		errs, err := conn.CreateStream(h)
		if err != nil {
			n.t.Fatal(err)
		}
		h.Set(remotecommand.StreamType, "data")
		if data, err = conn.CreateStream(h); errors.Is(err, spdystream.ErrReset) {
			return nil, errs
		} else if err != nil {
			n.t.Fatal(err)
		}
		return data, errs
	}
}
