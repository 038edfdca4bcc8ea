package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
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

func containerConfig(id string) runtime.Config {
	return runtime.Config{ID: id, Image: image, Args: []string{"/bin/true"}, Cwd: "/", PID: runtime.NamespaceContainer}
}

func TestNewContainerWritesABundle(t *testing.T) {
	h := newHost(t)
	c := h.config(podID)
	c.UserNS = mappings()
	s := create(t, h, c)
	source := filepath.Join(t.TempDir(), "missing", "dir")
	config := containerConfig("c01")
	config.Mounts = []runtime.Mount{
		{Destination: "/data", Source: source},
		{Destination: "/image", Image: image, SubPath: "sub"},
	}
	live, err := s.NewContainer(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		t.Errorf("missing source was not made: %v", err)
	}
	request := h.monitor.created["c01"]
	if request.Rootfs.UserNS == "" || request.Rootfs.Upper == "" || len(request.Overlays) != 1 ||
		request.Overlays[0].SubPath != "sub" || request.Cgroup != c.CgroupParent+"/c01" || request.KillAll {
		t.Errorf("request: %+v", request)
	}
	content, err := os.ReadFile(filepath.Join(request.Bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var oci specs.Spec
	if err := json.Unmarshal(content, &oci); err != nil {
		t.Fatal(err)
	}
	for _, n := range oci.Linux.Namespaces {
		switch n.Type {
		case specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace:
			if !netns.IsNamespace(n.Path) {
				t.Errorf("%s namespace at %q is not pinned", n.Type, n.Path)
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(request.Rootfs.Upper, &st); err != nil || st.Uid != 200000 {
		t.Errorf("upper belongs to %d, %v", st.Uid, err)
	}
	if _, err := s.NewContainer(context.Background(), config); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second container of one name: %v", err)
	}
	usage := live.(interface {
		DiskUsage(context.Context) (runtime.DiskUsage, error)
	})
	if err := os.WriteFile(filepath.Join(request.Rootfs.Upper, "file"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := usage.DiskUsage(context.Background()); err != nil || got.Bytes < 1<<20 || got.Inodes != 2 {
		t.Errorf("usage: %+v %v", got, err)
	}
	for range 2 {
		if err := live.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Container(context.Background(), "c01"); !errdefs.IsNotFound(err) {
		t.Errorf("removed container: %v", err)
	}
}

func TestNewContainerThatFailsLeavesNothing(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	h.monitor.fail = errBroken
	if _, err := s.NewContainer(context.Background(), containerConfig("c01")); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	shared := containerConfig("c02")
	shared.Mounts = []runtime.Mount{{Destination: "/x", Source: t.TempDir(), Propagation: runtime.PropagationBidirectional}}
	private := filepath.Join(t.TempDir(), "private")
	if err := os.Mkdir(private, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(private, private, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(private, unix.MNT_DETACH) }()
	if err := unix.Mount("", private, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	shared.Mounts[0].Source = private
	if _, err := s.NewContainer(context.Background(), shared); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not a shared mount") {
		t.Errorf("got %v", err)
	}
	names, _ := os.ReadDir(filepath.Join(h.options.State, "sandboxes", podID, "containers"))
	if len(names) > 0 {
		t.Errorf("names are still claimed: %v", names)
	}
}

func TestRemoveTakesImmutableFiles(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	live, err := s.NewContainer(context.Background(), containerConfig("c01"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.monitor.created["c01"].Rootfs.Upper, "fixed")
	if err := os.WriteFile(file, nil, 0o000); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chattr", "+i", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := live.Remove(context.Background()); err != nil {
		t.Fatal(err)
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

func TestContainerThatAKillLeftHalfMade(t *testing.T) {
	h := newHost(t)
	s := create(t, h, h.config(podID))
	state := filepath.Join(h.options.State, "sandboxes", podID, "containers")
	// Killed after the name was claimed, and after a reboot that left the layer alone.
	if err := os.WriteFile(filepath.Join(state, "c01"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewContainer(context.Background(), containerConfig("c02")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(state, "c02")); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"c01", "c02"} {
		live, err := s.Container(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := live.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Container(context.Background(), id); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
}
