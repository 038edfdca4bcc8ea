package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/layer"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
)

var (
	_ sandbox.Driver  = (*sandbox.Kernel)(nil)
	_ sandbox.Monitor = (*monitor.Client)(nil)
	_ sandbox.Layers  = (*layer.Store)(nil)
	_ sandbox.Network = (*cni.Network)(nil)
)

// TestMain makes the test binary a monitor, or a pod's first process, if asked.
func TestMain(m *testing.M) {
	if len(os.Args) >= 2 && os.Args[1] == "pod-init" {
		monitor.PodInit()
	}
	if len(os.Args) == 4 && os.Args[1] == "test-monitor" {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		defer stop()
		err := monitor.Run(ctx, monitor.RunOptions{
			Socket: os.Args[2], State: os.Args[3],
			Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newRealHost is a host with a real monitor and a real OCI runtime.
func newRealHost(t *testing.T) *host {
	t.Helper()
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	// Sockets have short names: the directory is entered, not named.
	dir, err := os.MkdirTemp("", "ckt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "m.sock")
	process := exec.Command("/proc/self/exe", "test-monitor", socket, filepath.Join(dir, "state"))
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.expectNothing(t) // while there is somebody to ask
		h.options.Monitor = h.monitor
		h.restart(t)
		_ = process.Process.Signal(unix.SIGTERM)
		if err := process.Wait(); err != nil {
			t.Errorf("monitor: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	client := monitor.NewClient(monitor.DialUnix(socket))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := client.Hello(context.Background()); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the monitor does not answer")
		}
	}
	rt.Root = filepath.Join(dir, "oci")
	h.options.Monitor, h.options.Runtime, h.socket, h.client = client, rt, socket, client
	h.options.Layers = fakeLayers{dir: rootfs(t)}
	h.restart(t)
	return h
}

// rootfs is a small system of this machine's programs.
func rootfs(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `set -e; for d in proc sys dev etc tmp volume data; do mkdir -p "$0/$d"; done; chmod 1777 "$0/tmp"; echo inside > "$0/volume/file"
for p in /bin/sh /bin/cat /bin/sleep /bin/ls /bin/hostname /bin/chown /usr/bin/id /usr/bin/stat /usr/bin/kill; do
  [ -e "$p" ] || continue
  for f in "$p" $(ldd "$p" | grep -o '/[^ )]*'); do mkdir -p "$0$(dirname "$f")"; cp -Ln "$f" "$0$f"; done
done`
	if out, err := exec.Command("sh", "-c", script, root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return root
}

func shell(id, script string) runtime.Config {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"}
	return runtime.Config{
		ID: id, Image: []digest.Digest{"sha256:aa"}, Cwd: "/", PID: runtime.NamespaceContainer,
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "GREETING=hello"},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		Resources:    &runtime.Resources{MemoryLimit: 128 << 20},
	}
}

// run makes and starts a container.
func run(t *testing.T, s sandbox.Sandbox, c runtime.Config) runtime.Container {
	t.Helper()
	live, err := s.NewContainer(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return live
}

// output execs a script and returns what it prints.
func output(t *testing.T, c runtime.Container, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, problems bytes.Buffer
	exit, err := c.Exec(ctx, runtime.ExecConfig{
		Args: []string{"/bin/sh", "-c", script}, Streams: runtime.Streams{Stdout: &out, Stderr: &problems},
	})
	if err != nil || exit.Code != 0 {
		t.Fatalf("exec %q: %+v %v: %s", script, exit, err, problems.String())
	}
	return strings.TrimSpace(out.String())
}

func TestContainersForReal(t *testing.T) {
	for name, change := range map[string]func(*sandbox.Config){
		"plain":          func(*sandbox.Config) {},
		"own cgroup":     func(c *sandbox.Config) { c.CgroupParent = "" },
		"user namespace": func(c *sandbox.Config) { c.UserNS = mappings() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newRealHost(t)
			c := h.config(podID)
			change(&c)
			s := create(t, h, c)
			config := shell("c01", "echo started; echo $GREETING; exec sleep 100")
			config.LogPath = filepath.Join(t.TempDir(), "log")
			config.Mounts = []runtime.Mount{{Destination: "/mnt", Image: config.Image, SubPath: "volume"}}
			live := run(t, s, config)
			for script, want := range map[string]string{
				"hostname":              "the-pod",
				"cat /etc/hostname":     "the-pod",
				"id -u; echo $GREETING": "0\nhello",
				"cat /mnt/file":         "inside",
				"cat /proc/1/comm":      "sleep",
				`while read -r dev at type rest; do [ "$at" != / ] || echo "$dev $type"; done </proc/mounts`: "overlay overlay",
				"echo x > /data/f; stat -c %u:%g /data/f":                                                    "0:0",
				"stat -c %u:%g /etc/resolv.conf /bin/sh":                                                     "0:0\n0:0",
				"echo '1.2.3.4 x' >> /etc/hosts && echo written":                                             "written",
				"stat -f -c %T /dev/shm":                                                                     "tmpfs",
			} {
				if got := output(t, live, script); got != want {
					t.Errorf("%s: got %q, want %q", script, got, want)
				}
			}
			var stat runtime.Stat
			if err := live.Stat(context.Background(), &stat); err != nil || stat.Memory.Limit == nil || *stat.Memory.Limit != 128<<20 || *stat.Pids == 0 {
				t.Errorf("stat: %+v %v", stat, err)
			}
			// A new daemon finds it again.
			h.restart(t)
			again, err := h.Attach(context.Background(), s.Record())
			if err != nil {
				t.Fatal(err)
			}
			if live, err = again.Container(context.Background(), "c01"); err != nil {
				t.Fatal(err)
			}
			if err := live.Signal(context.Background(), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			exit, err := live.Wait(context.Background())
			if err != nil || exit.Code != 137 {
				t.Errorf("exit: %+v %v", exit, err)
			}
			if log, err := os.ReadFile(config.LogPath); !strings.Contains(string(log), "stdout F hello") {
				time.Sleep(time.Second)
				later, _ := os.ReadFile(config.LogPath)
				t.Errorf("log: %q, %v; a second later: %q", log, err, later)
			}
			if err := live.Remove(context.Background()); err != nil {
				t.Fatal(err)
			}
			if _, err := again.Container(context.Background(), "c01"); !errdefs.IsNotFound(err) {
				t.Errorf("removed container: %v", err)
			}
		})
	}
}

func TestContainersOfAPodShare(t *testing.T) {
	for name, userNS := range map[string]*sandbox.IDMappings{"plain": nil, "user namespace": mappings()} {
		t.Run(name, func(t *testing.T) {
			h := newRealHost(t)
			c := h.config(podID)
			c.PID, c.UserNS = runtime.NamespacePod, userNS
			s := create(t, h, c)
			first := shell("c01", "echo shared > /dev/shm/x; exec sleep 111")
			first.PID = runtime.NamespacePod
			one := run(t, s, first)
			second := shell("c02", "exec sleep 222")
			second.PID, second.PIDTarget = runtime.NamespaceTarget, "c01"
			two := run(t, s, second)
			if got := output(t, two, "cat /dev/shm/x; cat /proc/*/comm"); !strings.HasPrefix(got, "shared") || strings.Count(got, "sleep") != 2 {
				t.Errorf("got %q", got)
			}
			// Background processes end with their container although the namespace goes on.
			output(t, one, "sleep 333 >/dev/null 2>&1 & echo started")
			if err := one.Signal(context.Background(), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if _, err := one.Wait(context.Background()); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if got := output(t, two, "cat /proc/*/comm"); strings.Count(got, "sleep") == 1 {
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("processes are left: %q", got)
				}
			}
			if err := s.Stop(context.Background()); err != nil {
				t.Fatal(err)
			}
			if state, err := two.State(context.Background()); err != nil || state.Phase != runtime.Exited {
				t.Errorf("after Stop: %+v %v", state, err)
			}
		})
	}
}

func TestContainerThatCannotStartLeavesNothing(t *testing.T) {
	h := newRealHost(t)
	s := create(t, h, h.config(podID))
	config := shell("c01", "")
	config.Args = []string{"/no/such/program"}
	live, err := s.NewContainer(context.Background(), config)
	if err == nil { // some runtimes notice at start
		err = live.Start(context.Background())
		if err := live.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("got %v", err)
	}
	names, _ := os.ReadDir(filepath.Join(h.options.State, "sandboxes", podID, "containers"))
	if len(names) > 0 {
		t.Errorf("names are still claimed: %v", names)
	}
}

func TestStopWithContainersInEveryPhase(t *testing.T) {
	h := newRealHost(t)
	c := h.config(podID)
	c.PID = runtime.NamespacePod
	s := create(t, h, c)
	for _, id := range []string{"c01", "c02", "c03"} {
		config := shell(id, "exec sleep 100")
		if id == "c02" {
			config.PID = runtime.NamespacePod
		}
		live, err := s.NewContainer(context.Background(), config)
		if err != nil {
			t.Fatal(err)
		}
		if id == "c01" {
			continue // created only
		}
		if err := live.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if err := s.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Stop took %s", took)
	}
}
