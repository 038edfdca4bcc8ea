package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// settle is how long the daemon may take to clear up behind an answered request.
const settle = 5 * time.Second

// Node is a private cricketd with what it needs. Its methods fail the test and are for
// the test's goroutine; the clients are safe for concurrent use.
type Node struct {
	Runtime  cri.RuntimeServiceClient
	Images   cri.ImageServiceClient
	Registry *images.Registry
	Set      *images.Set // what the registry serves at first
	Paths    harness.Paths
	// Failpoints is the file that the daemon's failpoints read; see package flow.
	Failpoints string

	t *testing.T
	// virtual pods ask for machines by their handler (startVirtual).
	virtual bool
	// pooled nodes keep machines ready, which come and go: nothing can be said of leaks.
	pooled bool
	daemon *harness.Daemon
	conn   *grpc.ClientConn
	before harness.Snapshot
}

// Start starts a daemon with the given further arguments. When the test ends, all pods
// are removed, LeakCheck is called, and the daemon and its monitor end.
func Start(t *testing.T, args ...string) *Node {
	t.Helper()
	return startHull(t, hull{}, args...)
}

// StartPool is Start with a number of virtual machines that are kept ready, where pods are
// such; LeakCheck is not called there.
func StartPool(t *testing.T, pool int, args ...string) *Node {
	t.Helper()
	return startHull(t, hull{pool: pool}, args...)
}

func startHull(t *testing.T, h hull, args ...string) *Node {
	t.Helper()
	recorder.Test(t)
	applies(t)
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		t.Fatal(err)
	}
	registry := images.NewRegistry(set)
	if dir := os.Getenv(debianEnv); dir != "" {
		debian, err := images.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		registry.AddSet(debian)
	}
	server, address, err := registry.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	dir, err := os.MkdirTemp(harness.Dir(), "daemon-")
	if err != nil {
		t.Fatal(err)
	}
	// As Isolate does with the node's directory, for pods with user namespaces.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	paths, err := harness.MakePaths(dir, address)
	if err != nil {
		t.Fatal(err)
	}
	if args, err = hullArguments(paths, h, args); err != nil {
		t.Fatal(err)
	}
	n := &Node{
		t: t, Registry: registry, Set: set, Paths: paths, Failpoints: filepath.Join(dir, "failpoints"), pooled: InVMs() && h.pool > 0,
	}
	n.daemon = harness.NewDaemon(paths, n.withFailpoints(harness.Cricketd(filepath.Join(os.Getenv(binEnv), "cricketd"), args...)))
	t.Cleanup(n.end)
	n.StartDaemon()
	if n.conn, err = n.daemon.Dial(); err != nil {
		t.Fatal(err)
	}
	n.connect(t)
	if err := n.daemon.WarmUp(t.Context()); err != nil {
		t.Fatalf("run a first pod: %v", err)
	}
	if h.pool == 0 {
		n.quiet()
	}
	n.before = n.observe()
	return n
}

// connect makes the clients of a test: what they send is recorded under its name.
func (n *Node) connect(t *testing.T) {
	conn := recorder.Conn(n.conn, t.Name())
	n.t, n.Runtime, n.Images = t, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	if n.virtual {
		n.Runtime = vmHandler{n.Runtime}
	}
}

func (n *Node) withFailpoints(s harness.Starter) harness.Starter {
	return func(p harness.Paths) (*exec.Cmd, error) {
		c, err := s(p)
		if err != nil {
			return nil, err
		}
		c.Env = append(c.Environ(), "CRICKET_FAILPOINTS="+n.Failpoints, "PATH="+os.Getenv(binEnv)+":"+os.Getenv("PATH"))
		return c, nil
	}
}

// end takes the node down; what is left in the node's namespaces fails the test.
func (n *Node) end() {
	n.removePods()
	n.NoPanic()
	if n.t.Failed() {
		n.t.Logf("the end of the daemon's log:\n%s", n.LogTail(80))
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if err := n.daemon.Stop(); err != nil {
		n.t.Errorf("stop the daemon: %v", err)
	}
	if pid, err := n.Paths.MonitorPid(); err == nil {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			n.t.Errorf("end the monitor: %v", err)
		}
	}
}

// removePods removes the test's pods and looks for what is left. If the test has failed,
// for whatever reason, only the first is tried, for the sake of the tests that follow.
func (n *Node) removePods() {
	if n.before == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.t.Context()), time.Minute)
	defer cancel()
	failed := n.t.Failed()
	if err := n.daemon.RemovePods(ctx); err != nil {
		n.t.Errorf("remove the test's pods: %v", err)
	}
	if !failed && !n.pooled {
		n.LeakCheck()
	}
}

// StartDaemon starts the daemon after KillDaemon or StopDaemon.
func (n *Node) StartDaemon() {
	n.t.Helper()
	if err := n.daemon.Start(context.WithoutCancel(n.t.Context())); err != nil {
		n.t.Fatalf("%v\n%s", err, n.LogTail(40))
	}
}

// KillDaemon ends the daemon with SIGKILL.
func (n *Node) KillDaemon() {
	n.t.Helper()
	if err := n.daemon.Kill(); err != nil {
		n.t.Fatal(err)
	}
}

// StopDaemon ends the daemon with SIGTERM.
func (n *Node) StopDaemon() {
	n.t.Helper()
	if err := n.daemon.Stop(); err != nil {
		n.t.Fatal(err)
	}
}

// RestartDaemon kills the daemon and starts it again.
func (n *Node) RestartDaemon() {
	n.t.Helper()
	n.KillDaemon()
	n.StartDaemon()
}

// Crashed tells whether the daemon ended by itself, for example at a failpoint.
func (n *Node) Crashed(within time.Duration) bool { return n.daemon.Ended(within) }

// DaemonPid is the daemon's process id.
func (n *Node) DaemonPid() int { return n.daemon.Pid() }

// MonitorPid is the process id of the monitor.
func (n *Node) MonitorPid() int {
	n.t.Helper()
	pid, err := n.Paths.MonitorPid()
	if err != nil {
		n.t.Fatal(err)
	}
	return pid
}

// KillMonitor ends the monitor with SIGKILL.
func (n *Node) KillMonitor() {
	n.t.Helper()
	if err := unix.Kill(n.MonitorPid(), unix.SIGKILL); err != nil {
		n.t.Fatalf("kill the monitor: %v", err)
	}
}

// Crictl runs crictl against the daemon and returns its output.
func (n *Node) Crictl(args ...string) string {
	n.t.Helper()
	endpoint := "unix://" + n.Paths.Socket
	all := append([]string{"--config", "/dev/null", "-r", endpoint, "-i", endpoint}, args...)
	out, err := exec.CommandContext(n.t.Context(), os.Getenv(crictlEnv), all...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("crictl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n *Node) observe() harness.Snapshot {
	n.t.Helper()
	s, err := harness.Observe(n.Paths.Leases, filepath.Join(n.Paths.Root, "containers"),
		filepath.Join(n.Paths.State, "sandboxes"), filepath.Join(n.Paths.State, "containers"),
		filepath.Join(n.Paths.State, "vm"), filepath.Join(n.Paths.Root, "vm"))
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

// LeakCheck fails the test if there is more in the node than when Start returned. Pulled
// images and the daemons' own processes, which may have been started anew, are no leak.
func (n *Node) LeakCheck() {
	n.t.Helper()
	for deadline := time.Now().Add(settleTime()); ; time.Sleep(100 * time.Millisecond) {
		var leaks []string
		for _, l := range n.before.Leaks(n.observe()) {
			if !n.expected(l) {
				leaks = append(leaks, l)
			}
		}
		if len(leaks) == 0 {
			return
		}
		if time.Now().After(deadline) {
			n.t.Errorf("left behind:\n  %s", strings.Join(leaks, "\n  "))
			return
		}
	}
}

var processLine = regexp.MustCompile(`^process (\d+) `)

// expected tells whether a line of a leak is a daemon or a mount of a pulled layer.
func (n *Node) expected(line string) bool {
	if strings.HasPrefix(line, "mount "+filepath.Join(n.Paths.State, "layers")+"/") {
		return true
	}
	m := processLine.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	pid, _ := strconv.Atoi(m[1])
	monitor, err := n.Paths.MonitorPid()
	return pid == n.daemon.Pid() || (err == nil && pid == monitor)
}

// LogTail is the last lines of the daemon's log.
func (n *Node) LogTail(lines int) string {
	data, err := os.ReadFile(n.Paths.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// vmHandler runs every pod with the handler "vm", as pods of a RuntimeClass do.
type vmHandler struct{ cri.RuntimeServiceClient }

func (h vmHandler) RunPodSandbox(ctx context.Context, r *cri.RunPodSandboxRequest, o ...grpc.CallOption) (*cri.RunPodSandboxResponse, error) {
	return h.RuntimeServiceClient.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: r.GetConfig(), RuntimeHandler: "vm"}, o...)
}
