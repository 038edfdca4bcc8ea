package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

func eventually(t *testing.T, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience / 2); !true(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not become true")
		}
	}
}

func testLimits(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "memory", "exec tail /dev/zero")
	c.Resources = &runtime.Resources{MemoryLimit: 24 << 20, MemorySwapLimit: 24 << 20}
	if _, exit := h.run(t, s, c); !exit.OOMKilled || exit.Code != 137 {
		t.Errorf("out of memory: %+v", exit)
	}
	c = h.shell(t, "updated", idle)
	live := start(t, s, c)
	if err := live.Update(limited(t), &runtime.Resources{MemoryLimit: 48 << 20, CPUQuota: 50000, CPUPeriod: 100000, PidsLimit: 77}); err != nil {
		t.Fatal(err)
	}
	var stat runtime.Stat
	if err := live.Stat(limited(t), &stat); err != nil || stat.Memory.Limit == nil || *stat.Memory.Limit != 48<<20 {
		t.Errorf("limit after update: %+v %v", stat.Memory, err)
	}
	c = h.shell(t, "pids", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done 2>/dev/null; wait; echo all")
	c.Resources = &runtime.Resources{PidsLimit: 5}
	if out, exit := h.run(t, s, c); strings.Contains(out, "all") && exit.Code == 0 {
		t.Errorf("twelve processes with a limit of five: %q %+v", out, exit)
	}
}

func testExec(t *testing.T, h *Hull) {
	s := h.pod(t)
	live := start(t, s, h.shell(t, "one", idle))
	var out, problems bytes.Buffer
	exit, err := live.Exec(limited(t), runtime.ExecConfig{
		Args:    []string{"sh", "-c", "cat; echo problem >&2; exit 5"},
		Streams: runtime.Streams{Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &problems},
	})
	if err != nil || exit.Code != 5 || out.String() != "input" || problems.String() != "problem\n" {
		t.Errorf("got %+v %v %q %q", exit, err, out.String(), problems.String())
	}
	exit, err = live.Exec(limited(t), runtime.ExecConfig{Args: []string{"sh", "-c", "sleep 55 & sleep 66"}, Timeout: time.Second})
	if err != nil || !exit.TimedOut {
		t.Errorf("an exec that takes too long: %+v %v", exit, err)
	}
	eventually(t, func() bool {
		out, _ := tryExec(t, live, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep [56]'")
		return out == "0"
	})
	if _, err := live.Exec(limited(t), runtime.ExecConfig{Args: []string{"/no/such/program"}}); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("an exec of nothing: %v", err)
	}
	const many = 8 << 20
	counted := &counter{}
	exit, err = live.Exec(limited(t), runtime.ExecConfig{
		Args: []string{"head", "-c", "8388608", "/dev/zero"}, Streams: runtime.Streams{Stdout: counted},
	})
	if err != nil || exit.Code != 0 || counted.n != many {
		t.Errorf("much output: %+v %v, %d bytes", exit, err, counted.n)
	}
	out.Reset()
	sizes := make(chan runtime.Size, 1)
	sizes <- runtime.Size{Width: 123, Height: 45}
	exit, err = live.Exec(limited(t), runtime.ExecConfig{
		Args:    []string{"sh", "-c", "test -t 0 && for i in 1 2 3 4 5 6 7 8 9; do case $(stty size) in '45 123') break;; esac; sleep 0.2; done; stty size"},
		Streams: runtime.Streams{Terminal: true, Stdin: never{}, Stdout: &out, Resize: sizes},
	})
	if err != nil || exit.Code != 0 || !strings.Contains(out.String(), "45 123\r\n") {
		t.Errorf("terminal: %+v %v %q", exit, err, out.String())
	}
}

type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// never is an input that nobody types into.
type never struct{}

func (never) Read([]byte) (int, error) { select {} }

func testAttach(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "one", "while read -r line; do echo got $line; done; echo end")
	c.Stdin, c.StdinOnce = true, true
	live := start(t, s, c)
	in, typed := io.Pipe()
	read, out := io.Pipe()
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		err := live.Attach(ctx, runtime.Streams{Stdin: in, Stdout: out})
		_ = out.Close()
		ended <- err
	}()
	_, _ = io.WriteString(typed, "one\n")
	buffer := make([]byte, 8)
	if _, err := io.ReadFull(read, buffer); err != nil || string(buffer) != "got one\n" {
		t.Errorf("got %q %v", buffer, err)
	}
	_ = typed.Close()
	rest, err := io.ReadAll(read)
	if err != nil || string(rest) != "end\n" {
		t.Errorf("rest: %q %v", rest, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if exit := await(t, live); exit.Code != 0 {
		t.Errorf("exit: %+v", exit)
	}
	c = h.shell(t, "terminal", "test -t 0 && echo terminal; read -r x; echo $x")
	c.Terminal, c.Stdin = true, true
	live = start(t, s, c)
	var shown bytes.Buffer
	if err := live.Attach(ctx, runtime.Streams{Terminal: true, Stdin: strings.NewReader("hello\n"), Stdout: &shown}); err != nil {
		t.Error(err)
	}
	await(t, live)
	if got := logged(t, c.LogPath); !strings.Contains(got, "stdout F terminal") || !strings.Contains(got, "hello") {
		t.Errorf("log of the terminal: %q", got)
	}
}

func testNetwork(t *testing.T, h *Hull) {
	s := h.pod(t)
	other := start(t, h.otherPod(t), h.shell(t, "other", idle))
	live := start(t, s, h.shell(t, "one", "while :; do echo answer | nc -l -p 9090; done"))
	address := s.Status().IPs[0].String()
	wants(t, live, map[string]string{
		"ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*'": "inet " + address,
		"ip -o link show lo | grep -c UP":                  "1",
		"ip route | grep -c default":                       "1",
	})
	ask := "for i in 1 2 3 4 5 6 7 8 9; do nc " + address + " 9090 </dev/null && break; sleep 0.3; done"
	wants(t, other, map[string]string{ask: "answer"})
	var conn net.Conn
	eventually(t, func() (up bool) { // between two answers nobody listens
		var err error
		conn, err = s.Dial(limited(t), 9090)
		return err == nil
	})
	_ = conn.SetDeadline(time.Now().Add(patience))
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
	if got, err := io.ReadAll(conn); string(got) != "answer\n" {
		t.Errorf("through Dial: %q %v", got, err)
	}
	_ = conn.Close()
	if conn, err := s.Dial(limited(t), 9); err == nil {
		_ = conn.Close()
		t.Error("something listens on port 9")
	}
}

func (h *Hull) otherPod(t *testing.T) sandbox.Sandbox {
	t.Helper()
	return h.pod(t, func(c *sandbox.Config) { c.ID, c.Name, c.UID = id(t, "other pod"), "other", "other-uid" })
}

func testFigures(t *testing.T, h *Hull) {
	s := h.pod(t)
	live := start(t, s, h.shell(t, "busy", "head -c 20000000 /dev/zero > /big; while :; do :; done"))
	eventually(t, func() bool {
		var stat runtime.Stat
		err := live.Stat(limited(t), &stat)
		return err == nil && stat.CPUNanos != nil && *stat.CPUNanos > 5e8 && stat.Memory.Usage != nil && *stat.Memory.Usage > 100<<10 &&
			stat.Pids != nil && *stat.Pids >= 1 && stat.Memory.Limit != nil && *stat.Memory.Limit == 64<<20
	})
	eventually(t, func() bool {
		usage, err := live.(interface {
			DiskUsage(context.Context) (runtime.DiskUsage, error)
		}).DiskUsage(limited(t))
		return err == nil && usage.Bytes >= 19<<20 && usage.Inodes >= 2
	})
	var stat sandbox.Stat
	if err := s.Stat(limited(t), &stat); err != nil || stat.CPUNanos == nil || *stat.CPUNanos < 4e8 || len(stat.Network) == 0 || stat.Network[0].Name != "eth0" {
		t.Errorf("figures of the pod: %+v %v", stat, err)
	}
}

func testRestart(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "one", "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; exit 9")
	start(t, s, c)
	start(t, s, h.shell(t, "two", idle))
	start(t, s, h.shell(t, "unnoticed", "exit 4"))
	time.Sleep(time.Second)
	h.Restart(t)
	again, err := h.Driver.Attach(limited(t), s.Record())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.Status(), s.Status(); !got.Ready || len(got.IPs) == 0 || got.IPs[0] != want.IPs[0] || got.NetNS != want.NetNS {
		t.Errorf("status after the restart: %+v, was %+v", got, want)
	}
	live, err := again.Container(limited(t), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if exit := await(t, live); exit.Code != 9 {
		t.Errorf("exit: %+v", exit)
	}
	var want strings.Builder
	for i := range 30 {
		fmt.Fprintf(&want, "stdout F line %d\n", i)
	}
	if got := logged(t, c.LogPath); got != want.String() {
		t.Errorf("log: %q", got)
	}
	unnoticed, err := again.Container(limited(t), id(t, "unnoticed"))
	if err != nil {
		t.Fatal(err)
	}
	if exit := await(t, unnoticed); exit.Code != 4 {
		t.Errorf("exit that nobody has asked for: %+v", exit)
	}
	two, err := again.Container(limited(t), id(t, "two"))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, two, map[string]string{"echo alive": "alive"})
	if _, exit := h.run(t, again, h.shell(t, "three", "true")); exit.Code != 0 {
		t.Errorf("a container made after the restart: %+v", exit)
	}
	if err := again.Remove(limited(t)); err != nil {
		t.Error(err)
	}
	record := s.Record()
	if gone, err := h.Driver.Attach(limited(t), record); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("attach to a removed sandbox: %v", err)
	} else if err := gone.Remove(limited(t)); err != nil {
		t.Error(err)
	}
}

func testRotation(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "one", "i=0; while [ ! -e /stop ]; do echo line $i; i=$((i+1)); sleep 0.05; done; echo end")
	live := start(t, s, c)
	eventually(t, func() bool { return strings.Contains(logged(t, c.LogPath), "line 3\n") })
	if err := os.Rename(c.LogPath, c.LogPath+".1"); err != nil {
		t.Fatal(err)
	}
	if err := live.ReopenLog(limited(t)); err != nil {
		t.Fatal(err)
	}
	// Later than this answers: what runs in a container ends with it.
	output(t, live, "(sleep 0.2; touch /stop) >/dev/null 2>&1 &")
	await(t, live)
	whole := logged(t, c.LogPath+".1") + logged(t, c.LogPath)
	lines := strings.Split(strings.TrimSpace(whole), "\n")
	for i, line := range lines[:len(lines)-1] {
		if line != fmt.Sprintf("stdout F line %d", i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if lines[len(lines)-1] != "stdout F end" {
		t.Errorf("the last line is %q", lines[len(lines)-1])
	}
}

func testSweep(t *testing.T, h *Hull) {
	s := h.pod(t)
	start(t, s, h.shell(t, "one", idle))
	h.Restart(t)
	ids, err := h.Driver.List(limited(t))
	if err != nil || len(ids) != 1 || ids[0] != id(t, "pod") {
		t.Errorf("traces of sandboxes: %v %v", ids, err)
	}
	containers, err := h.Driver.Containers(limited(t))
	if err != nil || containers[id(t, "one")] != id(t, "pod") {
		t.Errorf("traces of containers: %v %v", containers, err)
	}
	if err := h.Driver.SweepContainer(limited(t), id(t, "pod"), id(t, "one")); err != nil {
		t.Error(err)
	}
	again, err := h.Driver.Attach(limited(t), s.Record())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Container(limited(t), id(t, "one")); !errdefs.IsNotFound(err) {
		t.Errorf("a swept container: %v", err)
	}
	if _, exit := h.run(t, again, h.shell(t, "one", "true")); exit.Code != 0 {
		t.Errorf("its successor: %+v", exit)
	}
	for range 2 {
		if err := h.Driver.Sweep(limited(t), id(t, "pod")); err != nil {
			t.Error(err)
		}
	}
	if ids, err := h.Driver.List(limited(t)); err != nil || len(ids) > 0 {
		t.Errorf("traces after the sweep: %v %v", ids, err)
	}
}
