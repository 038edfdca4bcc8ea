package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// vendor is a CDI specification: what a device of each kind needs in a container.
const vendor = `{"cdiVersion": "0.7.0", "kind": "vendor.example/thing", "devices": [
 {"name": "env", "containerEdits": {"env": ["THING=one"], "additionalGids": [4321]}},
 {"name": "node", "containerEdits": {"deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}]}},
 {"name": "same", "containerEdits": {"deviceNodes": [{"path": "/dev/kmsg", "permissions": "r"}]}},
 {"name": "library", "containerEdits": {"mounts": [{"hostPath": "%[1]s/lib", "containerPath": "/opt/thing", "options": ["ro", "rbind"]}]}},
 {"name": "hooks", "containerEdits": {"hooks": [
  {"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", "cat > %[1]s/created"]},
  {"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", "cat > %[1]s/container"]},
  {"hookName": "poststart", "path": "/bin/sh", "args": ["sh", "-c", "cat > %[1]s/started"]},
  {"hookName": "poststop", "path": "/bin/sh", "args": ["sh", "-c", "cat > %[1]s/stopped"]}]}}
]}`

// things writes the devices of a vendor and returns the daemon's configuration for them
// and the directory where their hooks leave traces.
func things(t *testing.T) (config, dir string) {
	t.Helper()
	dir = t.TempDir()
	// Pods with user namespaces get there too.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"specs/vendor.json": fmt.Sprintf(vendor, dir), "lib/libthing.so": "a library",
		"config.toml": fmt.Sprintf("[cdi]\nspec_dirs = [%q]\n", filepath.Join(dir, "specs")),
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml"), dir
}

func withThings(c *cri.ContainerConfig, names ...string) *cri.ContainerConfig {
	for _, name := range names {
		c.CDIDevices = append(c.CDIDevices, &cri.CDIDevice{Name: "vendor.example/thing=" + name})
	}
	return c
}

// TestCDI: devices that are asked for by name are in the container with all they need.
func TestCDI(t *testing.T) {
	config, dir := things(t)
	n := Start(t, "--config", config)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := withThings(n.ContainerConfig("sleep", "3600"), "node", "library", "hooks")
	c.Annotations = map[string]string{"cdi.k8s.io/thing": "vendor.example/thing=env"}
	id := n.Started(pod, p, c)
	for _, check := range []struct{ command, want string }{
		{"echo $THING", "one"},
		{"head -c 4 /dev/thing | od -An -tx1", " 00 00 00 00"},
		{"cat /opt/thing/libthing.so", "a library"},
		{"echo x 2>&1 > /opt/thing/new || echo refused", "refused"},
		{"id -G", "4321"},
	} {
		if got := n.Exec(id, "sh", "-c", check.command); !strings.Contains(got, check.want) {
			t.Errorf("%s: %q, want %q", check.command, got, check.want)
		}
	}
	if g := n.Status(id).GetUser().GetLinux().GetSupplementalGroups(); len(g) == 0 || g[len(g)-1] != 4321 {
		t.Errorf("the status shows groups %v", g)
	}
	traces := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(data), id) {
				t.Errorf("hook %s: %q, %v", name, data, err)
			}
		}
	}
	traces("created", "container", "started")
	if _, err := n.Runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	traces("stopped")
	t.Run("refused", func(t *testing.T) { cdiRefuses(t, n.For(t), pod, p) })
	t.Run("user namespace", func(t *testing.T) { cdiUserNamespace(t, n.For(t)) })
}

// cdiRefuses: errors name the device.
func cdiRefuses(t *testing.T, n *Node, pod string, p *cri.PodSandboxConfig) {
	for name, want := range map[string]codes.Code{"vendor.example/thing=nosuch": codes.NotFound, "/dev/null": codes.InvalidArgument} {
		c := n.ContainerConfig("true")
		c.CDIDevices = []*cri.CDIDevice{{Name: name}}
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		WantCode(t, err, want)
		if !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("the error does not name %s: %v", name, err)
		}
	}
}

// cdiUserNamespace: the OCI runtime cannot make nodes there, and mounts the host's.
func cdiUserNamespace(t *testing.T, n *Node) {
	p := n.PodConfig()
	users := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping(1_000_000), Gids: mapping(1_000_000)}
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	pod := n.RunPod(p)
	for _, tc := range []struct{ device, command, want string }{
		{"env", "echo $THING", "one"},
		{"library", "stat -c %u /opt/thing/libthing.so; cat /opt/thing/libthing.so", "0\na library"},
		{"same", "stat -c '%t %T' /dev/kmsg", "1 b"},
	} {
		c := withThings(n.ContainerConfig("sleep", "3600"), tc.device)
		c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: proto.Clone(p.Linux.SecurityContext.NamespaceOptions).(*cri.NamespaceOption)}
		r, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		if err != nil {
			t.Errorf("%s: %v", tc.device, err)
			continue
		}
		n.StartContainer(r.GetContainerId())
		if got := n.Exec(r.GetContainerId(), "sh", "-c", tc.command); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.device, got, tc.want)
		}
	}
}

// TestVirtualCDI: what is not of the host's kernel works in a machine too, the rest is
// refused by name.
func TestVirtualCDI(t *testing.T) {
	config, _ := things(t)
	n := startVirtual(t, config)
	p := n.PodConfig()
	pod := n.RunPod(p)
	id := n.Started(pod, p, withThings(n.ContainerConfig("sleep", "3600"), "env", "library"))
	if got := n.Exec(id, "sh", "-c", "echo $THING; cat /opt/thing/libthing.so; echo x 2>&1 > /opt/thing/new || echo refused"); !strings.Contains(got, "one\na library") || !strings.Contains(got, "refused") {
		t.Errorf("got %q", got)
	}
	for device, want := range map[string]string{"node": "linux.devices: /dev/thing", "hooks": "hooks.createRuntime: /bin/sh"} {
		c := withThings(n.ContainerConfig("true"), device)
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		WantCode(t, err, codes.InvalidArgument)
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v", device, err)
		}
	}
}
