package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// programs are built once for all tests.
var programs struct{ monitor, payload, cgroup string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "monitor-test-")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	programs.monitor, programs.payload = filepath.Join(dir, "cricket-monitor"), filepath.Join(dir, "payload")
	for out, pkg := range map[string]string{programs.monitor: "../../cmd/cricket-monitor", programs.payload: "./testdata/payload"} {
		c := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := c.CombinedOutput(); err != nil {
			fmt.Printf("build %s: %v\n%s", pkg, err, b)
			os.Exit(1)
		}
	}
	programs.cgroup = fmt.Sprintf("/cricket-monitor-test-%d", os.Getpid())
	code := m.Run()
	os.RemoveAll(dir)
	if left := removeCgroups(programs.cgroup); len(left) > 0 {
		fmt.Println("cgroups that are not empty are left:", left)
		code = max(code, 1)
	}
	os.Exit(code)
}

// removeCgroups removes the empty cgroups at path in every hierarchy, and lists the
// others.
func removeCgroups(path string) (left []string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	unified, _ := filepath.Glob("/sys/fs/cgroup" + path)
	for _, root := range append(roots, unified...) {
		children, _ := filepath.Glob(root + "/*/cgroup.procs")
		for _, child := range children {
			os.Remove(filepath.Dir(child))
		}
		if err := os.Remove(root); err != nil {
			left = append(left, root)
		}
	}
	return left
}

// node is a monitor process with its directories.
type node struct {
	t       testing.TB
	dir     string
	client  *Client
	process *exec.Cmd
	rt      oci.Runtime
}

var nodes atomic.Int64

func newNode(t testing.TB, rt oci.Runtime) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, dir: dir, rt: rt}
	n.rt.Root = filepath.Join(dir, "oci")
	socket := filepath.Join(dir, "monitor.sock")
	n.client = NewClient(func(ctx context.Context) (net.Conn, error) {
		dirfd, err := os.Open(dir) // the path may be longer than a socket's
		if err != nil {
			return nil, err
		}
		defer dirfd.Close()
		return DialUnix(fmt.Sprintf("/proc/self/fd/%d/%s", dirfd.Fd(), filepath.Base(socket)))(ctx)
	})
	n.start()
	t.Cleanup(n.close)
	return n
}

func (n *node) start() {
	n.t.Helper()
	n.process = exec.Command(programs.monitor, "--socket", "monitor.sock", "--state", "state", "--log-level", "warn")
	n.process.Dir = n.dir
	n.process.Stderr = os.Stderr
	if err := n.process.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("the monitor answers", func() bool {
		_, err := n.client.Hello(n.t.Context())
		return err == nil
	})
}

// kill ends the monitor as a crash would.
func (n *node) kill() {
	n.process.Process.Kill()
	n.process.Wait()
}

func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	entries, err := n.client.List(ctx)
	if err != nil {
		n.t.Errorf("list at the end: %v", err)
	}
	for _, e := range entries {
		if e.Kind == KindHold {
			n.t.Errorf("hold %s is left", e.ID)
		}
		if err := n.client.Delete(ctx, e.ID); err != nil {
			n.t.Errorf("delete %s: %v", e.ID, err)
		}
	}
	n.process.Process.Signal(unix.SIGTERM)
	if err := n.process.Wait(); err != nil {
		n.t.Errorf("the monitor ended with %v", err)
	}
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	n.t.Fatalf("never: %s", what)
}

// bundle prepares a container of the payload; change may alter it.
func (n *node) bundle(args []string, change func(*specs.Spec, *CreateRequest)) CreateRequest {
	n.t.Helper()
	id := fmt.Sprintf("mt%d-%d", os.Getpid(), nodes.Add(1))
	bundle := filepath.Join(n.dir, id)
	lower := filepath.Join(n.dir, "lower")
	for _, d := range []string{bundle, lower, lower + "/proc", lower + "/dev", filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	if _, err := os.Stat(lower + "/payload"); err != nil {
		b, err := os.ReadFile(programs.payload)
		if err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(lower+"/payload", b, 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: append([]string{"/payload"}, args...), Cwd: "/", Env: []string{"GOMAXPROCS=1"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: programs.cgroup + "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}},
			Resources:   &specs.LinuxResources{},
		},
	}
	req := CreateRequest{ID: id, Bundle: bundle, Runtime: n.rt, LogPath: filepath.Join(n.dir, id+".log"),
		Rootfs: Overlay{Target: "rootfs", Lower: []string{lower}, Upper: filepath.Join(bundle, "upper"), Work: filepath.Join(bundle, "work")}}
	if change != nil {
		change(spec, &req)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		n.t.Fatal(err)
	}
	return req
}

func (n *node) create(args []string, change func(*specs.Spec, *CreateRequest)) CreateRequest {
	n.t.Helper()
	req := n.bundle(args, change)
	if _, err := n.client.Create(n.t.Context(), req); err != nil {
		n.t.Fatalf("create: %v", err)
	}
	return req
}

func (n *node) run(args []string, change func(*specs.Spec, *CreateRequest)) CreateRequest {
	n.t.Helper()
	req := n.create(args, change)
	if _, err := n.client.Start(n.t.Context(), req.ID); err != nil {
		n.t.Fatalf("start: %v", err)
	}
	return req
}

func (n *node) wait(id string) runtime.Exit {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	exit, err := n.client.Wait(ctx, id)
	if err != nil {
		n.t.Fatalf("wait: %v", err)
	}
	return exit
}

// text returns the content of a CRI log's stream.
func (n *node) text(path, stream string) string {
	n.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 {
			n.t.Fatalf("log line %q", line)
		}
		if f[1] != stream {
			continue
		}
		out.WriteString(f[3])
		if f[2] == "F" {
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// eachRuntime runs a test with every OCI runtime of this machine.
func eachRuntime(t *testing.T, test func(t *testing.T, rt oci.Runtime)) {
	found := 0
	for _, name := range []string{"crun", "runc"} {
		rt, err := oci.Find(name)
		if err != nil {
			continue
		}
		found++
		t.Run(name, func(t *testing.T) { test(t, rt) })
	}
	if found == 0 {
		t.Fatal("no OCI runtime: install crun or runc")
	}
}

// readOwner returns the user id of a file.
func readOwner(path string) (uint32, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Uid, err
}
