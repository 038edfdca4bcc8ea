package conformance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// patience bounds everything that a test waits for, on a busy machine too.
const patience = 2 * time.Minute

func limited(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// id makes an id of the form that cri gives, different for every name of a test.
func id(t testing.TB, name string) string {
	t.Helper()
	text := fmt.Sprintf("%x", t.Name()+name)
	return (strings.Repeat("0", 64) + text)[len(text):]
}

// podConfig is an ordinary pod.
func podConfig(t testing.TB) sandbox.Config {
	t.Helper()
	return sandbox.Config{
		ID: id(t, "pod"), Name: "pod", Namespace: "test", UID: "uid-" + id(t, "uid")[48:], Hostname: "the-pod",
		Network: runtime.NamespacePod, PID: runtime.NamespaceContainer, IPC: runtime.NamespacePod,
		DNS:       &sandbox.DNS{Servers: []string{"10.0.0.1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}},
		CreatedAt: time.Now(),
	}
}

// pod makes a pod, which goes with the test.
func (h *Hull) pod(t testing.TB, change ...func(*sandbox.Config)) sandbox.Sandbox {
	t.Helper()
	c := podConfig(t)
	for _, f := range change {
		f(&c)
	}
	s, err := h.Driver.Create(limited(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// shell is a container that runs a script.
func (h *Hull) shell(t testing.TB, name, script string) runtime.Config {
	t.Helper()
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETUID", "CAP_SETGID",
		"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_MKNOD",
	}
	return runtime.Config{
		ID: id(t, name), Image: h.Node.Image, Cwd: "/", PID: runtime.NamespaceContainer,
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "GREETING=hello"},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		Resources:    &runtime.Resources{MemoryLimit: 64 << 20},
		MaskedPaths:  []string{"/proc/version"}, ReadonlyPaths: []string{"/proc/sys"},
		LogPath: filepath.Join(h.logs(t), name+".log"),
	}
}

// logs is a directory that outlives the subtests.
func (h *Hull) logs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(h.Node.Paths.Dir, "logs", id(t, "")[40:])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// idle is the script of a container that waits for the tests' execs and ends at SIGTERM.
const idle = "trap 'exit 0' TERM; while :; do sleep 0.2; done"

func start(t testing.TB, s sandbox.Sandbox, c runtime.Config) runtime.Container {
	t.Helper()
	live, err := s.NewContainer(limited(t), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	return live
}

func await(t testing.TB, c runtime.Container) runtime.Exit {
	t.Helper()
	exit, err := c.Wait(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// run runs a script to its end and returns its output without times, and its exit.
func (h *Hull) run(t testing.TB, s sandbox.Sandbox, c runtime.Config) (string, runtime.Exit) {
	t.Helper()
	live := start(t, s, c)
	exit := await(t, live)
	return logged(t, c.LogPath), exit
}

// logged reads a CRI log: one "stream tag text" for each line.
func logged(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(content)) {
		at, rest, found := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil || !found {
			t.Fatalf("line %q of the log: %v", line, err)
		}
		out.WriteString(rest)
	}
	return out.String()
}

// exec runs a script in a container and returns what it prints.
func output(t testing.TB, c runtime.Container, script string) string {
	t.Helper()
	out, exit := tryExec(t, c, script)
	if exit.Code != 0 {
		t.Fatalf("exec %q: %+v: %s", script, exit, out)
	}
	return out
}

func tryExec(t testing.TB, c runtime.Container, script string) (string, runtime.Exit) {
	t.Helper()
	var out bytes.Buffer
	exit, err := c.Exec(limited(t), runtime.ExecConfig{
		Args: []string{"/bin/sh", "-c", script}, Streams: runtime.Streams{Stdout: &out, Stderr: &out},
	})
	if err != nil {
		t.Fatalf("exec %q: %v", script, err)
	}
	return strings.TrimSpace(out.String()), exit
}

// wants compares the outputs of scripts.
func wants(t testing.TB, c runtime.Container, want map[string]string) {
	t.Helper()
	for script, expected := range want {
		if got, _ := tryExec(t, c, script); got != expected {
			t.Errorf("%s: got %q, want %q", script, got, expected)
		}
	}
}

func kill(t testing.TB, c runtime.Container, sig unix.Signal) {
	t.Helper()
	if err := c.Signal(limited(t), sig); err != nil {
		t.Fatal(err)
	}
}

func mappings() *sandbox.IDMappings {
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	return &sandbox.IDMappings{UIDs: m, GIDs: m}
}
