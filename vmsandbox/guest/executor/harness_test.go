package executor

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
)

// node is a monitor in this process, as in a guest. It reaps every child, so tests start
// none themselves.
var node struct {
	client   *monitor.Client
	executor *Executor
	cgroup   string
	dir      string
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == payloadArg {
		payload(os.Args[2:]) // inside a container
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "pod-init" {
		monitor.PodInit()
	}
	code, err := setUp(m)
	if err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (code int, err error) {
	// Temporary directories of tests must not be on a mount that containers cannot stack
	// upon, and ids of other users must reach them.
	signal.Ignore(unix.SIGHUP) // as process 1 does
	if node.dir, err = os.MkdirTemp("", "executor-test-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(node.dir)
	if err := os.Chmod(node.dir, 0o711); err != nil {
		return 1, err
	}
	node.cgroup = filepath.Join(unified(), fmt.Sprintf("cricket-executor-test-%d", os.Getpid()))
	if err := os.Mkdir(node.cgroup, 0o755); err != nil {
		return 1, err
	}
	defer func() {
		if left := cgroup(node.cgroup).remove(); left != nil {
			err = errors.Join(err, left)
		}
	}()
	if node.executor, err = New(Options{CgroupRoot: node.cgroup}); err != nil {
		return 1, err
	}
	s, err := monitor.NewServer(monitor.Options{State: filepath.Join(node.dir, "state"), Executor: node.executor, Boot: "test"})
	if err != nil {
		return 1, err
	}
	socket := filepath.Join(node.dir, "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 1, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	node.client = monitor.NewClient(monitor.DialUnix(socket))
	code = m.Run()
	cancel()
	return code, errors.Join(<-done, node.executor.Close())
}

// unified is where cgroup v2 is mounted.
func unified() string {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup/unified", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "/sys/fs/cgroup/unified"
	}
	return "/sys/fs/cgroup"
}

var containers atomic.Int64

// box is a container of a test.
type box struct {
	t      testing.TB
	id     string
	bundle string
	lower  string // the image
	config runtime.Config
	place  spec.Place
	spec   *specs.Spec
	change func(*specs.Spec)
	req    monitor.CreateRequest
	log    string
}

// newBox describes a container that reports what it sees. It has the test program as
// /payload.
func newBox(t testing.TB, args ...string) *box {
	t.Helper()
	b := &box{t: t, id: fmt.Sprintf("c%d", containers.Add(1))}
	b.bundle = filepath.Join(node.dir, b.id)
	b.lower = filepath.Join(b.bundle, "image")
	b.log = filepath.Join(b.bundle, "log")
	t.Cleanup(func() { must(t, os.RemoveAll(b.bundle)) })
	for _, dir := range []string{"bundle", "image/etc", "image/tmp", "image/dir", "upper", "work"} {
		must(t, os.MkdirAll(filepath.Join(b.bundle, dir), 0o755))
	}
	must(t, os.Chmod(filepath.Join(b.lower, "tmp"), 0o1777))
	b.copyProgram()
	must(t, os.WriteFile(filepath.Join(b.lower, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv/web:/bin/sh\n"), 0o644))
	caps := spec.DefaultCapabilities()
	host, err := spec.ReadCapabilities()
	must(t, err)
	b.config = runtime.Config{
		ID: b.id, Args: append([]string{"/payload", payloadArg}, args...), Env: []string{"PATH=/bin:/dir:/"}, Cwd: "/",
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		PID:          runtime.NamespaceContainer,
	}
	b.place = spec.Place{
		Rootfs: "rootfs", CgroupsPath: "/pod/" + b.id, CgroupV2: true, HostCapabilities: host, Hostname: "box",
		Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
	}
	b.req = monitor.CreateRequest{
		ID: b.id, Bundle: filepath.Join(b.bundle, "bundle"), LogPath: b.log,
		Rootfs: monitor.Overlay{Target: "rootfs", Lower: []string{b.lower}, Upper: filepath.Join(b.bundle, "upper"), Work: filepath.Join(b.bundle, "work")},
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *box) copyProgram() {
	from, err := os.Open("/proc/self/exe")
	must(b.t, err)
	defer from.Close()
	if program, err := elf.NewFile(from); err != nil || program.Section(".interp") != nil {
		b.t.Fatalf("containers run this program, and have no libraries: test with CGO_ENABLED=0 (%v)", err)
	}
	to, err := os.OpenFile(filepath.Join(b.lower, "payload"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(b.t, err)
	_, err = io.Copy(to, from)
	must(b.t, errors.Join(err, to.Close()))
}

// create makes the container; it is deleted with the test.
func (b *box) create() error {
	b.t.Helper()
	var err error
	b.spec, err = spec.Build(b.config, b.place)
	must(b.t, err)
	b.compile()
	if b.change != nil {
		b.change(b.spec)
	}
	text, err := json.Marshal(b.spec)
	must(b.t, err)
	must(b.t, os.WriteFile(filepath.Join(b.req.Bundle, "config.json"), text, 0o644))
	_, err = node.client.Create(b.t.Context(), b.req)
	if err != nil {
		return err
	}
	b.t.Cleanup(func() {
		if err := node.client.Delete(context.Background(), b.id); err != nil {
			b.t.Errorf("delete: %v", err)
		}
		if _, err := os.Stat(filepath.Join(node.cgroup, "pod", b.id)); !errors.Is(err, os.ErrNotExist) {
			b.t.Errorf("cgroup is left: %v", err)
		}
	})
	return nil
}

// compile does with the profile what the host does.
func (b *box) compile() {
	b.t.Helper()
	f, err := seccomp.Compile(b.spec.Linux.Seccomp)
	must(b.t, err)
	if f != nil {
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: b.spec.Linux.Seccomp.DefaultAction}
		must(b.t, os.WriteFile(filepath.Join(b.req.Bundle, seccomp.ProgramFile), f.Bytes(), 0o600))
	}
}

func (b *box) start() {
	b.t.Helper()
	must(b.t, b.create())
	_, err := node.client.Start(b.t.Context(), b.id)
	must(b.t, err)
}

// run runs the container to its end and returns what it wrote.
func (b *box) run() (string, runtime.Exit) {
	b.t.Helper()
	b.start()
	exit, err := node.client.Wait(b.t.Context(), b.id)
	must(b.t, err)
	return b.output(), exit
}

// report runs a container whose payload reports.
func (b *box) report() report {
	b.t.Helper()
	out, exit := b.run()
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil || exit.Code != 0 {
		b.t.Fatalf("exit %+v, output %q: %v", exit, out, err)
	}
	return r
}

// output joins the lines of the log.
func (b *box) output() string {
	text, err := os.ReadFile(b.log)
	must(b.t, err)
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(line, " ", 4)
		if parts[2] == "P" {
			parts[3] = strings.TrimSuffix(parts[3], "\n")
		}
		out.WriteString(parts[3])
	}
	return out.String()
}

// exec runs the payload in the container.
func (b *box) exec(change func(*specs.Process), args ...string) (string, runtime.Exit, error) {
	b.t.Helper()
	p := *b.spec.Process
	p.Args, p.Terminal = append([]string{"/payload", payloadArg}, args...), false
	if change != nil {
		change(&p)
	}
	var out bytes.Buffer
	exit, err := node.client.Exec(b.t.Context(), b.id, monitor.ExecRequest{Process: p}, runtime.Streams{Stdout: &out, Stderr: &out})
	return out.String(), exit, err
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("in vain: %s", what)
}

// sleeps returns when the payload does.
func (b *box) sleeps() {
	b.t.Helper()
	eventually(b.t, "the container sleeps", func() bool { return b.output() == "sleeping\n" })
}
