package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// serial makes names of pods and containers different.
var serial atomic.Int64

// Pull pulls an image and returns its id.
func (n *Node) Pull(name string) string {
	n.t.Helper()
	r, err := n.Images.PullImage(n.t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
	if err != nil {
		n.t.Fatalf("pull %s: %v", name, err)
	}
	return r.GetImageRef()
}

// PodConfig is a pod with a network of its own and container logs below LogDir.
func (n *Node) PodConfig() *cri.PodSandboxConfig {
	n.t.Helper()
	name := fmt.Sprintf("pod-%d", serial.Add(1))
	logs := filepath.Join(n.Paths.Dir, "logs", name)
	// The client makes it, as the kubelet does.
	if err := os.MkdirAll(logs, 0o755); err != nil {
		n.t.Fatal(err)
	}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name},
		LogDirectory: logs,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
}

// RunPod runs a pod and returns its id.
func (n *Node) RunPod(c *cri.PodSandboxConfig) string {
	n.t.Helper()
	r, err := n.Runtime.RunPodSandbox(n.t.Context(), &cri.RunPodSandboxRequest{Config: c})
	if err != nil {
		n.t.Fatalf("run pod: %v", err)
	}
	return r.GetPodSandboxId()
}

// ContainerConfig is a container of the busybox image that runs a command.
func (n *Node) ContainerConfig(command ...string) *cri.ContainerConfig {
	name := fmt.Sprintf("container-%d", serial.Add(1))
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: images.Busybox},
		Command:  command,
		LogPath:  name + ".log",
		Linux:    &cri.LinuxContainerConfig{},
	}
}

// Create creates a container and returns its id. The image must have been pulled.
func (n *Node) Create(pod string, p *cri.PodSandboxConfig, c *cri.ContainerConfig) string {
	n.t.Helper()
	r, err := n.Runtime.CreateContainer(n.t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
	if err != nil {
		n.t.Fatalf("create container: %v", err)
	}
	return r.GetContainerId()
}

// StartContainer starts a created container.
func (n *Node) StartContainer(id string) {
	n.t.Helper()
	if _, err := n.Runtime.StartContainer(n.t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		n.t.Fatalf("start container: %v", err)
	}
}

// Run creates and starts a container with a command and returns its id.
func (n *Node) Run(pod string, p *cri.PodSandboxConfig, command ...string) string {
	n.t.Helper()
	id := n.Create(pod, p, n.ContainerConfig(command...))
	n.StartContainer(id)
	return id
}

// Exec runs a command in a container and returns its output; it must exit 0.
func (n *Node) Exec(id string, command ...string) string {
	n.t.Helper()
	r, err := n.Runtime.ExecSync(n.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 30})
	if err != nil {
		n.t.Fatalf("exec %v: %v", command, err)
	}
	if r.GetExitCode() != 0 {
		n.t.Fatalf("exec %v: exit code %d\n%s%s", command, r.GetExitCode(), r.GetStdout(), r.GetStderr())
	}
	return string(r.GetStdout())
}

// Status is a container's status.
func (n *Node) Status(id string) *cri.ContainerStatus {
	n.t.Helper()
	r, err := n.Runtime.ContainerStatus(n.t.Context(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.t.Fatalf("container status: %v", err)
	}
	return r.GetStatus()
}

// Exited waits until a container has exited and returns its status.
func (n *Node) Exited(id string, within time.Duration) *cri.ContainerStatus {
	n.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		s := n.Status(id)
		if s.GetState() == cri.ContainerState_CONTAINER_EXITED {
			return s
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the container is %s after %s", s.GetState(), within)
		}
	}
}
