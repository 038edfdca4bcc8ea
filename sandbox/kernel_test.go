package sandbox_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/netns"
)

var image = []digest.Digest{"sha256:aa"}

func mappings() *sandbox.IDMappings {
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	return &sandbox.IDMappings{UIDs: m, GIDs: m}
}

func create(t *testing.T, h *host, c sandbox.Config) sandbox.Sandbox {
	t.Helper()
	s, err := h.Create(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestLifeOfSandboxes(t *testing.T) {
	for name, change := range map[string]func(*sandbox.Config){
		"plain":      func(*sandbox.Config) {},
		"shared PID": func(c *sandbox.Config) { c.PID = runtime.NamespacePod },
		"own cgroup": func(c *sandbox.Config) { c.CgroupParent = "" },
		"user namespace": func(c *sandbox.Config) {
			c.UserNS = mappings()
			c.PID = runtime.NamespacePod
			c.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1"}
		},
		"host": func(c *sandbox.Config) {
			c.Network, c.IPC, c.PID = runtime.NamespaceNode, runtime.NamespaceNode, runtime.NamespaceNode
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			c := h.config(podID)
			change(&c)
			s := create(t, h, c)
			status := s.Status()
			if !status.Ready || (status.NetNS != "") != (c.Network == runtime.NamespacePod) || len(status.IPs) > 0 != (status.NetNS != "") {
				t.Errorf("status: %+v", status)
			}
			for range 2 {
				if err := s.Stop(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-s.Done():
			default:
				t.Error("a stopped sandbox is still ready")
			}
			if ids, _ := h.network.List(); len(ids) > 0 {
				t.Error("the address is not free after Stop")
			}
			for range 2 {
				if err := s.Remove(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestFilesOfAUserNamespacePod(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	c.UserNS = mappings()
	create(t, h, c)
	dir := filepath.Join(h.options.State, "sandboxes", podID)
	content, _ := os.ReadFile(filepath.Join(dir, "resolv.conf"))
	if string(content) != "search a b\nnameserver 10.0.0.1\noptions ndots:5\n" {
		t.Errorf("resolv.conf: %q", content)
	}
	if content, _ := os.ReadFile(filepath.Join(dir, "hostname")); string(content) != "the-pod\n" {
		t.Errorf("hostname: %q", content)
	}
	for _, name := range []string{"hosts", "shm"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 200000 || st.Gid != 200000 {
			t.Errorf("%s belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(dir, "shm"), &fs); err != nil || uint64(fs.Bsize)*fs.Blocks != 64<<20 {
		t.Errorf("shm: %+v %v", fs, err)
	}
	if len(h.monitor.held) != 0 {
		t.Error("a process is kept although nothing needs it")
	}
	out, err := exec.Command("nsenter", "--uts="+filepath.Join(h.options.State, "ns", podID, "uts"), "hostname").Output()
	if err != nil || strings.TrimSpace(string(out)) != "the-pod" {
		t.Errorf("host name %q, %v", out, err)
	}
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	h := newHost(t)
	h.network.fail = errBroken
	c := h.config(podID)
	c.PID = runtime.NamespacePod
	if _, err := h.Create(context.Background(), c); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "connect network") {
		t.Errorf("got %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	h := newHost(t)
	for want, change := range map[string]func(*sandbox.Config){
		"kernel.panic": func(c *sandbox.Config) { c.Sysctls = map[string]string{"kernel.panic": "1"} },
		"net.core.somaxconn": func(c *sandbox.Config) {
			c.Sysctls, c.Network = map[string]string{"net.core.somaxconn": "1"}, runtime.NamespaceNode
		},
		"id \"../x\"":         func(c *sandbox.Config) { c.ID = "../x" },
		"cgroup parent":       func(c *sandbox.Config) { c.CgroupParent = "x.slice" },
		"IPC namespace mode":  func(c *sandbox.Config) { c.IPC = "" },
		"PID namespace mode":  func(c *sandbox.Config) { c.PID = runtime.NamespaceTarget },
		"user namespace with": func(c *sandbox.Config) { c.UserNS = &sandbox.IDMappings{} },
	} {
		c := h.config(podID)
		change(&c)
		if _, err := h.Create(context.Background(), c); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error that names %q, got %v", want, err)
		}
	}
}

func TestSandboxIsDoneWhenItsInitDies(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	c.PID = runtime.NamespacePod
	s := create(t, h, c)
	if err := h.monitor.held[podID].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
	if s.Status().Ready {
		t.Error("the sandbox is still ready")
	}
}

func TestAttachAfterARestart(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	c.PID = runtime.NamespacePod
	first := create(t, h, c)
	h.restart(t)
	s, err := h.Attach(context.Background(), first.Record())
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Status(); !got.Ready || len(got.IPs) != 1 || got.NetNS == "" {
		t.Errorf("status: %+v", got)
	}
	if ids, err := h.List(context.Background()); err != nil || !slices.Equal(ids, []string{podID}) {
		t.Errorf("list: %v %v", ids, err)
	}
	// A reboot takes the namespaces away.
	if err := netns.Dir(filepath.Join(h.options.State, "ns", podID)).Unpin(); err != nil {
		t.Fatal(err)
	}
	gone, err := h.Attach(context.Background(), first.Record())
	if !errors.Is(err, sandbox.ErrGone) || gone == nil || gone.Status().Ready {
		t.Fatalf("got %v", err)
	}
	if err := gone.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestAttachAfterAReboot(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	c.Network, c.IPC, c.PID = runtime.NamespaceNode, runtime.NamespaceNode, runtime.NamespaceNode
	first := create(t, h, c)
	if _, err := h.Attach(context.Background(), first.Record()); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(h.options.State, "sandboxes", podID, "state.json")
	content, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(content), strings.TrimSpace(string(boot)), "another boot", 1)
	if err := os.WriteFile(state, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Attach(context.Background(), first.Record()); !errors.Is(err, sandbox.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestSweepOfWhatAKillLeft(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	s := create(t, h, c)
	if _, err := s.NewContainer(context.Background(), containerConfig("c01")); err != nil {
		t.Fatal(err)
	}
	// As if the machine had been started anew with half of the state.
	if err := os.Remove(filepath.Join(h.options.State, "sandboxes", podID, "state.json")); err != nil {
		t.Fatal(err)
	}
	h.restart(t)
	for range 2 {
		if err := h.Sweep(context.Background(), podID); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b"} {
		if err := h.Sweep(context.Background(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("sweep %q: %v", id, err)
		}
	}
}

// TestSweepOfWhatOnlyTheMonitorHas: a creation was taken back while the monitor did not
// answer.
func TestSweepOfWhatOnlyTheMonitorHas(t *testing.T) {
	h, ctx := newHost(t), context.Background()
	if _, err := h.monitor.Hold(ctx, monitor.HoldRequest{ID: podID}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.monitor.Create(ctx, monitor.CreateRequest{ID: "c01", Sandbox: podID}); err != nil {
		t.Fatal(err)
	}
	if ids, err := h.List(ctx); err != nil || !slices.Equal(ids, []string{podID}) {
		t.Errorf("found %v, %v", ids, err)
	}
	if err := h.Sweep(ctx, podID); err != nil {
		t.Fatal(err)
	}
	h.expectNothing(t)
}

func TestSweepOfAContainer(t *testing.T) {
	h, ctx := newHost(t), context.Background()
	s := create(t, h, h.config(podID))
	for _, id := range []string{"c01", "c02"} {
		if _, err := s.NewContainer(ctx, containerConfig(id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.monitor.Create(ctx, monitor.CreateRequest{ID: "c03", Sandbox: podID}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(h.options.State, "sandboxes", podID, "containers", "c02")); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"c01": podID, "c02": podID, "c03": podID}
	if found, err := h.Containers(ctx); err != nil || !maps.Equal(found, want) {
		t.Errorf("found %v, %v", found, err)
	}
	for _, id := range []string{"c02", "c03", "c03"} {
		if err := h.SweepContainer(ctx, podID, id); err != nil {
			t.Fatal(err)
		}
		delete(want, id)
	}
	if found, err := h.Containers(ctx); err != nil || !maps.Equal(found, want) {
		t.Errorf("left are %v, %v", found, err)
	}
	if err := h.SweepContainer(ctx, podID, "../c01"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("sweep of a path: %v", err)
	}
	if err := s.Remove(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestDialEntersTheNetwork(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	for _, address := range []string{"127.0.0.1:8080", "[::1]:8081"} {
		var l net.Listener
		err := netns.Do(s.Status().NetNS, func() (err error) {
			l, err = net.Listen("tcp", address)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = conn.Write([]byte("hello"))
				_ = conn.Close()
			}
			served <- err
		}()
		conn, err := s.Dial(context.Background(), l.Addr().(*net.TCPAddr).Port)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(conn)
		_ = conn.Close()
		_ = l.Close()
		if err := <-served; err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if _, err := s.Dial(context.Background(), 9); !errdefs.IsUnavailable(err) {
		t.Errorf("closed port: %v", err)
	}
}

func TestStatOfASandbox(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	var stat sandbox.Stat
	if err := s.Stat(context.Background(), &stat); err != nil || stat.Memory.Usage == nil || stat.Pids == nil {
		t.Errorf("%+v %v", stat, err)
	}
}
