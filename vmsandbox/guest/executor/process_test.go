package executor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
)

func TestExec(t *testing.T) {
	b := newBox(t, "sleep")
	b.start()
	out, exit, err := b.exec(func(p *specs.Process) {
		p.User, p.Cwd, p.Env = specs.User{UID: 1000, GID: 7}, "/tmp", []string{"A=1"}
	})
	var r report
	if err != nil || exit.Code != 0 || json.Unmarshal([]byte(out), &r) != nil {
		t.Fatalf("%q, %+v, %v", out, exit, err)
	}
	if r.UID != 1000 || r.GID != 7 || r.Cwd != "/tmp" || !slices.Equal(r.Env, []string{"A=1", "HOME=/srv/web"}) || r.Hostname != "box" {
		t.Errorf("process %+v", r)
	}
	if r.Pid == 1 || r.Session != r.Pid || !strings.HasSuffix(r.Cgroup, "0::/") {
		t.Errorf("process %d of session %d in %q", r.Pid, r.Session, r.Cgroup)
	}
	out, _, err = b.exec(nil, "try", "cat=/proc/1/cgroup", "list=/proc/1/ns")
	if err != nil || !strings.Contains(out, "0::/\n") {
		t.Errorf("init's cgroup %q, %v", out, err)
	}
	if _, exit, err = b.exec(nil, "exit", "42"); err != nil || exit.Code != 42 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	p := *b.spec.Process
	p.Args = []string{"payload", payloadArg, "cat"}
	var echo bytes.Buffer
	_, err = node.client.Exec(t.Context(), b.id, monitor.ExecRequest{Process: p}, runtime.Streams{Stdin: strings.NewReader("one\ntwo\n"), Stdout: &echo})
	if err != nil || echo.String() != "got one\ngot two\n" {
		t.Errorf("echo %q, %v", echo.String(), err)
	}
}

func TestTerminal(t *testing.T) {
	b := newBox(t)
	b.config.Terminal, b.req.Terminal = true, true
	b.config.User = specs.User{UID: 1000, GID: 1000}
	var r report
	out, exit := b.run()
	if err := json.Unmarshal([]byte(out), &r); err != nil || exit.Code != 0 {
		t.Fatalf("%q, %+v, %v", out, exit, err)
	}
	if !r.Terminal || !slices.Contains(r.Dev, "console") || !slices.Contains(r.Descriptors, "0 /dev/pts/0") {
		t.Errorf("terminal %v, /dev has %v, descriptors %v", r.Terminal, r.Dev, r.Descriptors)
	}
	if m := r.Mounts["/dev/console"]; !strings.Contains(m, "devpts") {
		t.Errorf("console is %q", m)
	}

	b = newBox(t, "sleep")
	b.start()
	p := *b.spec.Process
	p.Args, p.Terminal = []string{"/payload", payloadArg, "try", "owner=/dev/pts/0", "read=/dev/pts/1"}, true
	p.User = specs.User{UID: 1000, GID: 1000}
	var got bytes.Buffer
	ended, err := node.client.Exec(t.Context(), b.id, monitor.ExecRequest{Process: p}, runtime.Streams{Terminal: true, Stdout: &got})
	if err != nil || ended.Code != 0 || !strings.Contains(got.String(), "owner=/dev/pts/0: 1000:5\r\n") {
		t.Errorf("exec with a terminal: %q, %+v, %v", got.String(), ended, err)
	}
}

func TestTerminalTakesInput(t *testing.T) {
	b := newBox(t, "sleep")
	b.start()
	p := *b.spec.Process
	p.Args, p.Terminal = []string{"/payload", payloadArg, "cat"}, true
	in, typed := io.Pipe()
	var got bytes.Buffer
	go func() { fmt.Fprint(typed, "hello\r\x04") }()
	_, err := node.client.Exec(t.Context(), b.id, monitor.ExecRequest{Process: p}, runtime.Streams{Terminal: true, Stdin: in, Stdout: &got})
	if err != nil || !strings.Contains(got.String(), "got hello") {
		t.Errorf("%q, %v", got.String(), err)
	}
}

func TestSeccompAndCapabilities(t *testing.T) {
	try := []string{"try", "unshare", "mount=/tmp"}
	caps := append(spec.DefaultCapabilities(), "CAP_SYS_ADMIN")
	for name, c := range map[string]struct {
		noNew bool
		caps  []string
		user  uint32
		want  string
	}{
		"filtered":               {false, caps, 0, "unshare: ok\nmount=/tmp: function not implemented\n"},
		"filtered, no new":       {true, caps, 0, "unshare: ok\nmount=/tmp: function not implemented\n"},
		"without the capability": {false, spec.DefaultCapabilities(), 0, "unshare: operation not permitted\nmount=/tmp: function not implemented\n"},
		"as a user":              {false, caps, 1000, "unshare: operation not permitted\nmount=/tmp: function not implemented\n"},
		"as a user, no new":      {true, caps, 1000, "unshare: operation not permitted\nmount=/tmp: function not implemented\n"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, try...)
			b.config.NoNewPrivileges, b.config.User.UID = c.noNew, c.user
			b.config.Capabilities = &specs.LinuxCapabilities{Bounding: c.caps, Effective: c.caps, Permitted: c.caps}
			enosys := uint(unix.ENOSYS)
			b.config.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"mount"}, Action: specs.ActErrno, ErrnoRet: &enosys,
				Args: []specs.LinuxSeccompArg{{Index: 3, Op: specs.OpEqualTo, Value: 0}},
			}, {Names: []string{"setresuid", "setresgid", "setgroups", "write"}, Action: specs.ActLog}}}
			if out, exit := b.run(); out != c.want {
				t.Errorf("%q, %+v, want %q", out, exit, c.want)
			}
		})
	}
}

func TestDefaultSeccomp(t *testing.T) {
	b := newBox(t)
	var err error
	b.config.Seccomp, err = spec.DefaultSeccomp(spec.DefaultCapabilities())
	must(t, err)
	r := b.report()
	if r.Status["Seccomp"] != "2" {
		t.Errorf("status %v", r.Status)
	}
	if r.Status["CapEff"] != "00000000a80425fb" {
		t.Errorf("capabilities %s", r.Status["CapEff"])
	}
}

func TestAmbientCapabilities(t *testing.T) {
	b := newBox(t)
	caps := []string{"CAP_NET_BIND_SERVICE"}
	b.config.User.UID = 1000
	b.config.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: caps, Ambient: caps}
	if r := b.report(); r.Status["CapEff"] != "0000000000000400" || r.Status["CapAmb"] != "0000000000000400" {
		t.Errorf("status %v", r.Status)
	}
}

func TestLimitsOfProcesses(t *testing.T) {
	b := newBox(t)
	adj := 500
	b.config.OOMScoreAdj = &adj
	b.place.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
	mask := uint32(0o077)
	b.config.User.Umask = &mask
	if r := b.report(); r.OOMScoreAdj != "500" || r.Limits["core"] != 0 || r.Umask != 0o077 {
		t.Errorf("%+v", r)
	}
}

func TestDevices(t *testing.T) {
	b := newBox(t, "try", "read=/dev/zero", "read=/dev/urandom", "write=/dev/null", "mknod=/tmp/mem", "owner=/dev/mine", "read=/dev/mine")
	mode, owner := os.FileMode(0o600), uint32(1000)
	b.config.Devices = []runtime.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/mine", Permissions: "r"}}
	b.place.Devices = map[string][]specs.LinuxDevice{"/dev/zero": {{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &owner, GID: &owner}}}
	out, _ := b.run()
	want := "read=/dev/zero: ok\nread=/dev/urandom: ok\nwrite=/dev/null: ok\nmknod=/tmp/mem: operation not permitted\nowner=/dev/mine: 1000:1000\nread=/dev/mine: ok\n"
	if out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

func TestKillAll(t *testing.T) {
	b := newBox(t, "sleep")
	b.start()
	done := make(chan string, 1)
	go func() {
		_, exit, err := b.exec(nil, "sleep")
		done <- fmt.Sprint(exit.Code, err)
	}()
	eventually(t, "the exec is in the cgroup", func() bool {
		text, err := os.ReadFile(filepath.Join(node.cgroup, "pod", b.id, "cgroup.procs"))
		pids := strings.Fields(string(text))
		return err == nil && len(pids) == 2 && strings.Contains(read("/proc/"+pids[1]+"/cmdline"), payloadArg)
	})
	must(t, node.client.Delete(t.Context(), b.id))
	if exit := <-done; exit != "137 <nil>" {
		t.Errorf("exec ended with %s", exit)
	}
}
