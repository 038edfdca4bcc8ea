package workload

import (
	"os"
	"path/filepath"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// volumes are the kinds that a database is put on: by the path that the kubelet would give.
func volumes() map[string]func(*pod) string {
	return map[string]func(*pod) string{
		"emptyDir": func(p *pod) string {
			return filepath.Join(p.n.Paths.Dir, "pods", p.config.GetMetadata().GetUid(), "volumes/kubernetes.io~empty-dir/data")
		},
		"hostPath": func(p *pod) string {
			return filepath.Join(p.n.Paths.Dir, "host", p.config.GetMetadata().GetUid())
		},
	}
}

// onVolumes runs a test on every kind of volume, each in a pod of its own. The volume is
// at /data once mounted.
func onVolumes(t *testing.T, image string, test func(t *testing.T, p *pod, mounted func(*cri.ContainerConfig))) {
	n := start(t, image)
	for kind, path := range volumes() {
		t.Run(kind, func(t *testing.T) {
			n := &node{n.For(t), t}
			p := n.run(nil)
			dir := path(p)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			test(t, p, func(c *cri.ContainerConfig) {
				c.Mounts = append(c.Mounts, &cri.Mount{HostPath: dir, ContainerPath: "/data"})
			})
			n.remove(p)
			// What is on an emptyDir of a machine is not on the host, what is on a hostPath is.
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if (len(left) > 0) != (kind == "hostPath") {
				t.Errorf("%s has %d entries on the host", dir, len(left))
			}
		})
	}
}

// remove stops and removes a pod.
func (n *node) remove(p *pod) {
	n.t.Helper()
	ctx := n.t.Context()
	if _, err := n.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		n.t.Fatalf("stop pod: %v", err)
	}
	if _, err := n.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		n.t.Fatalf("remove pod: %v", err)
	}
}

// stop stops a container with a grace period in seconds and returns its status.
func (n *node) stop(id string, grace int64) *cri.ContainerStatus {
	n.t.Helper()
	if _, err := n.Runtime.StopContainer(n.t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: grace}); err != nil {
		n.t.Fatalf("stop container: %v", err)
	}
	return n.Status(id)
}
