package guest_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
)

// TestContainers runs containers in one machine, whose root file system is an image with
// a disk over it.
func TestContainers(t *testing.T) {
	dir, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	image := filepath.Join(t.TempDir(), "image")
	buildProbe(t, filepath.Join(dir, "probe"))
	for _, d := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mkfs.erofs", "--quiet", image, dir)
	run(t, "truncate", "-s", "64M", disk)
	run(t, "mke2fs", "-q", "-t", "ext4", disk)
	m := guesttest.Boot(t, guesttest.Config{Disks: map[string]string{"ro0": image, "rw0": disk}, Network: true, MemoryMiB: 256})
	mount(t, m, agent.Mount{Slot: "ro0", Target: agent.DirDisks + "/ro0", Type: "erofs", Options: []string{"ro"}})
	mount(t, m, agent.Mount{Slot: "rw0", Target: agent.DirDisks + "/rw0", Type: "ext4"})
	limit := int64(64 << 20)
	began := time.Now()
	create(t, m, "one", &limit, "/probe", "serve", "127.0.0.1:8080")
	t.Logf("created and started in %s", time.Since(began))

	t.Run("identity", func(t *testing.T) { testNames(t, m) })
	t.Run("dial", func(t *testing.T) { testDial(t, m) })
	t.Run("modules", func(t *testing.T) {
		for _, word := range []string{"link", "tun"} {
			if out, exit := execute(t, m, "one", "/probe", word); exit.Code != 0 {
				t.Errorf("%s: %s", word, out)
			}
		}
	})
	t.Run("outside", func(t *testing.T) { testOutside(t, m) })
	t.Run("figures", func(t *testing.T) {
		s, ok := stat(t, m).Containers["one"]
		if !ok || *s.CPUNanos == 0 || *s.Memory.Usage == 0 || *s.Memory.Limit != 64<<20 || *s.Pids == 0 || s.MemoryPressure == nil {
			t.Errorf("figures = %+v", s)
		}
	})
	t.Run("container's memory", func(t *testing.T) { testMemory(t, m, &limit) })
	t.Run("pod's memory", func(t *testing.T) { testMemory(t, m, nil) })
}

// testNames looks at what Identify changed.
func testNames(t *testing.T, m *guesttest.Machine) {
	var random []string
	for i := range 2 {
		want := time.Now().Add(1000 * time.Hour)
		id := agent.Identity{UnixNanos: want.UnixNano(), Entropy: bytes.Repeat([]byte{byte(i)}, 32), MachineID: strings.Repeat("0", 32), Hostname: fmt.Sprintf("pod-%d", i)}
		if err := m.Guest.Identify(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		out, _ := execute(t, m, "one", "/probe", "identity")
		var nanos int64
		var name, secret string
		if _, err := fmt.Sscan(out, &nanos, &name, &secret); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if late := time.Unix(0, nanos).Sub(want); late < 0 || late > 10*time.Second {
			t.Errorf("the clock is %s off", late)
		}
		if name != id.Hostname {
			t.Errorf("host name = %q, not %q", name, id.Hostname)
		}
		random = append(random, secret)
	}
	if random[0] == random[1] {
		t.Errorf("random bytes %q twice", random)
	}
}

func testDial(t *testing.T, m *guesttest.Machine) {
	c, err := m.Session.Open(t.Context(), agent.ServiceTCP+"8080")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "round trip"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "round trip" {
		t.Errorf("%q, %v", got, err)
	}
	for _, port := range []string{"8081", "0", "65536", "x"} {
		if c, err := m.Session.Open(t.Context(), agent.ServiceTCP+port); err == nil {
			c.Close()
			t.Errorf("port %s is connected", port)
		}
	}
}

// testOutside has a container talk to the host over the machine's NIC.
func testOutside(t *testing.T, m *guesttest.Machine) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "the host")
			c.Close()
		}
	}()
	testConnect(t, m)
	port := l.Addr().(*net.TCPAddr).Port
	if out, _ := execute(t, m, "one", "/probe", "dial", fmt.Sprintf("10.0.2.2:%d", port)); out != "the host" {
		t.Errorf("answer = %q", out)
	}
	all := stat(t, m).Network
	at := slices.IndexFunc(all, func(n runtime.NetworkStat) bool { return n.Name == "eth0" })
	if at < 0 || all[at].RxBytes == 0 || all[at].TxBytes == 0 {
		t.Errorf("network = %+v", all)
	}
}

// testMemory has a container ask for more memory than there is. It is killed, and
// process 1 and the other container are not.
func testMemory(t *testing.T, m *guesttest.Machine, limit *int64) {
	create(t, m, "glutton", limit, "/probe", "eat", "1000")
	exit, err := m.Monitor.Wait(t.Context(), "glutton")
	if err != nil {
		t.Fatal(err)
	}
	if !exit.OOMKilled || exit.Code != 137 {
		t.Errorf("exit = %+v", exit)
	}
	if err := m.Monitor.Delete(t.Context(), "glutton"); err != nil {
		t.Error(err)
	}
	if out, _ := execute(t, m, "one", "/probe", "adjust"); out != "0\n" {
		t.Errorf("oom_score_adj = %q", out)
	}
}

// create makes and starts a container of the image with a writable layer.
func create(t *testing.T, m *guesttest.Machine, id string, memory *int64, args ...string) {
	t.Helper()
	upper := agent.DirDisks + "/rw0/" + id
	put(t, m, agent.File{Path: upper + "/upper", Mode: unix.S_IFDIR | 0o755}, agent.File{Path: upper + "/work", Mode: unix.S_IFDIR | 0o755})
	caps := []string{"CAP_NET_ADMIN", "CAP_SYS_PTRACE"}
	s := &specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"GOMEMLIMIT=off"}, Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}}},
		Linux: &specs.Linux{
			CgroupsPath: agent.PodCgroup + "/" + id, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: memory}},
			Devices:    []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}},
		},
	}
	m.Start(t, id, upper, s)
}

func execute(t *testing.T, m *guesttest.Machine, id string, args ...string) (string, runtime.Exit) {
	t.Helper()
	var out bytes.Buffer
	caps := []string{"CAP_NET_ADMIN", "CAP_SYS_PTRACE"}
	p := specs.Process{Args: args, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}}
	exit, err := m.Monitor.Exec(t.Context(), id, monitor.ExecRequest{Process: p}, runtime.Streams{Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), exit
}

func buildProbe(t *testing.T, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", to, "-ldflags", "-s -w", "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build probe: %v\n%s", err, out)
	}
}
