package integration

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// bulk is how much the transfers carry each way, in bytes.
const bulk = 100 << 20

func TestExec(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){
		"output cap":     execCap,
		"timeout":        execTimeout,
		"fifty at once":  execMany,
		"bulk":           execBulk,
		"exit code":      execExitCode,
		"terminal":       execTerminal,
		"attach":         attach,
		"attach to tty":  attachTerminal,
		"stdin once":     stdinOnce,
		"forward bulk":   forwardBulk,
		"forward errors": forwardErrors,
	})
	n.NoPanic()
}

// execCap: the CRI has the output of ExecSync at 16 MB; the command goes on behind it.
func execCap(t *testing.T, n *Node) {
	_, id, _ := n.Sleeper()
	r, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Timeout: 60,
		Cmd: []string{"sh", "-c", "spew 20971520 1024; spew 20971520 512 >&2; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	total := len(r.GetStdout()) + len(r.GetStderr())
	if r.GetExitCode() != 3 || total > 16<<20 || total < 15<<20 || len(r.GetStderr()) == 0 {
		t.Errorf("exit code %d with %d + %d bytes", r.GetExitCode(), len(r.GetStdout()), len(r.GetStderr()))
	}
}

// execTimeout: what the command started dies with it, in sessions of its own too.
func execTimeout(t *testing.T, n *Node) {
	_, id, _ := n.Sleeper()
	began := time.Now()
	_, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Timeout: 1,
		Cmd: []string{"sh", "-c", "sleep 4242 & setsid sleep 4242 & (sleep 4242 &) ; sleep 4242"}})
	WantCode(t, err, codes.DeadlineExceeded)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the timeout of 1 s took %s", took)
	}
	Within(t, 2*time.Second, "the commands end", func() bool {
		return !strings.Contains(n.Exec(id, "ps"), "4242")
	})
	if s := n.Status(id).GetState(); s != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", s)
	}
}

func execMany(t *testing.T, n *Node) {
	_, id, _ := n.Sleeper()
	for i, got := range AllOf(50, func(i int) string {
		r, err := n.Runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Timeout: 60,
			Cmd: []string{"sh", "-c", fmt.Sprintf("echo out%d; echo err%d >&2; exit %d", i, i, i)}})
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s%s%d", r.GetStdout(), r.GetStderr(), r.GetExitCode())
	}) {
		if want := fmt.Sprintf("out%d\nerr%d\n%d", i, i, i); got != want {
			t.Errorf("command %d answered %q", i, got)
		}
	}
}

// send writes n random bytes to w, closes it and returns their digest.
func send(w io.WriteCloser, n int64) (string, error) {
	h := sha256.New()
	source := io.LimitReader(rand.NewChaCha8([32]byte{1}), n)
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(w, h)}, source, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), w.Close()
}

// echoed sends bulk bytes to w and compares with what comes back from r.
func echoed(t *testing.T, w io.WriteCloser, r io.Reader) {
	t.Helper()
	sum := make(chan string, 1)
	go func() {
		s, err := send(w, bulk)
		if err != nil {
			s = err.Error()
		}
		sum <- s
	}()
	h := sha256.New()
	got, err := io.Copy(h, r)
	if want := <-sum; err != nil || got != bulk || fmt.Sprintf("%x", h.Sum(nil)) != want {
		t.Errorf("%d bytes came back (%v): %x, sent %s", got, err, h.Sum(nil), want)
	}
}

func execBulk(t *testing.T, n *Node) {
	_, id, _ := n.Sleeper()
	s := n.ExecSession(&cri.ExecRequest{ContainerId: id, Cmd: []string{"cat"}, Stdin: true, Stdout: true, Stderr: true})
	echoed(t, s.Stdin, s.Stdout)
	if code, msg := s.End(); code != 0 {
		t.Errorf("cat ended with %d %s", code, msg)
	}
}

// execExitCode: output that comes after the end of stdin is not lost.
func execExitCode(t *testing.T, n *Node) {
	_, id, _ := n.Sleeper()
	s := n.ExecSession(&cri.ExecRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true,
		Cmd: []string{"sh", "-c", "cat; sleep 0.3; echo late; echo bad >&2; exit 42"}})
	fmt.Fprint(s.Stdin, "early\n")
	s.Stdin.Close()
	out, _ := io.ReadAll(s.Stdout)
	errs, _ := io.ReadAll(s.Stderr)
	if code, _ := s.End(); code != 42 || string(out) != "early\nlate\n" || string(errs) != "bad\n" {
		t.Errorf("exit code %d, output %q, %q", code, out, errs)
	}
	s = n.ExecSession(&cri.ExecRequest{ContainerId: id, Stdout: true, Cmd: []string{"/no/such/program"}})
	if code, msg := s.End(); code == 0 || msg == "" {
		t.Errorf("a program that is not there ends with %d %q", code, msg)
	}
}

func execTerminal(t *testing.T, n *Node) {
	_, id, _ := n.Sleeper()
	s := n.ExecSession(&cri.ExecRequest{ContainerId: id, Tty: true, Stdin: true, Stdout: true, Cmd: []string{"sh"}})
	s.SetSize(101, 43)
	out := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(s.Stdout)
		out <- string(b)
	}()
	// The size arrives beside stdin; the shell waits for it.
	fmt.Fprint(s.Stdin, "for i in 1 2 3 4 5 6 7 8 9; do stty size | grep -q '43 101' && break; sleep 0.2; done; echo size=$(stty size); tty; exit 6\n")
	if code, msg := s.End(); code != 6 {
		t.Errorf("the shell ended with %d %s", code, msg)
	}
	if got := <-out; !strings.Contains(got, "size=43 101\r\n") || !strings.Contains(got, "/dev/pts/") {
		t.Errorf("the terminal shows %q", got)
	}
}

func attach(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "while read l; do echo got $l; echo err $l >&2; done; sleep 3600")
	c.Stdin = true
	id := n.Started(pod, p, c)
	first := n.AttachSession(&cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	second := n.AttachSession(&cri.AttachRequest{ContainerId: id, Stdout: true})
	time.Sleep(300 * time.Millisecond) // the second one has no other sign that it listens
	fmt.Fprint(first.Stdin, "one\n")
	for _, r := range []io.Reader{first.Stdout, second.Stdout} {
		if got := readFull(r, len("got one\n")); got != "got one\n" {
			t.Errorf("attached to %q", got)
		}
	}
	if got := readFull(first.Stderr, len("err one\n")); got != "err one\n" {
		t.Errorf("attached to stderr %q", got)
	}
	first.conn.Close()
	third := n.AttachSession(&cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
	fmt.Fprint(third.Stdin, "two\n")
	if got := readFull(third.Stdout, len("got two\n")); got != "got two\n" {
		t.Errorf("attached again to %q", got)
	}
	if s := n.Status(id).GetState(); s != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("after a client left the container is %s", s)
	}
}

func readFull(r io.Reader, size int) string {
	b := make([]byte, size)
	k, err := io.ReadFull(r, b)
	if err != nil {
		return fmt.Sprintf("%q, %v", b[:k], err)
	}
	return string(b)
}

func attachTerminal(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh")
	c.Stdin, c.Tty = true, true
	id := n.Started(pod, p, c)
	s := n.AttachSession(&cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true})
	s.SetSize(99, 33)
	out := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(s.Stdout)
		out <- string(b)
	}()
	fmt.Fprint(s.Stdin, "for i in 1 2 3 4 5 6 7 8 9; do stty size | grep -q '33 99' && break; sleep 0.2; done; echo size=$(stty size); exit 4\n")
	if got := n.Exited(id, 10*time.Second).GetExitCode(); got != 4 {
		t.Errorf("exit code %d", got)
	}
	if got := <-out; !strings.Contains(got, "size=33 99\r\n") {
		t.Errorf("the terminal shows %q", got)
	}
	if log := n.Log(p, c); !strings.Contains(log, "size=33 99") {
		t.Errorf("the log lacks the terminal's output: %q", log)
	}
}

// stdinOnce: the first attached client's end of input is the container's.
func stdinOnce(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "cat; echo end")
	c.Stdin, c.StdinOnce = true, true
	id := n.Started(pod, p, c)
	s := n.AttachSession(&cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
	fmt.Fprint(s.Stdin, "once\n")
	s.Stdin.Close()
	out, _ := io.ReadAll(s.Stdout)
	if string(out) != "once\nend\n" {
		t.Errorf("attached to %q", out)
	}
	n.Exited(id, 5*time.Second)
}

func forwardBulk(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	id := n.Run(pod, p, "tcpsvd", "-E", "127.0.0.1", "8080", "cat")
	Within(t, 5*time.Second, "the server listens", func() bool {
		return strings.Contains(n.Exec(id, "netstat", "-ltn"), ":8080")
	})
	open := n.Forward(pod, 8080)
	data, errs := open(8080, 1)
	echoed(t, data, data)
	if msg, _ := io.ReadAll(errs); len(msg) != 0 {
		t.Errorf("forwarding ended with %q", msg)
	}
	for i := range 20 { // more connections over the same session
		data, _ := open(8080, 2+i)
		fmt.Fprintf(data, "hello %d", i)
		data.Close()
		if got, err := io.ReadAll(data); err != nil || string(got) != fmt.Sprintf("hello %d", i) {
			t.Errorf("connection %d: %q, %v", i, got, err)
		}
	}
}

// forwardErrors: nobody listens; the next connection is not hurt by it.
func forwardErrors(t *testing.T, n *Node) {
	pod, _, _ := n.Sleeper()
	open := n.Forward(pod, 9)
	for i := range 2 {
		data, errs := open(9, i)
		if data != nil {
			data.Close()
		}
		if msg, _ := io.ReadAll(errs); !strings.Contains(string(msg), "refused") {
			t.Errorf("a closed port ends with %q", msg)
		}
	}
	if _, err := os.Stat(n.Paths.Socket); err != nil {
		t.Error(err)
	}
}
