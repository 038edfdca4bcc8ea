package nri

import (
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
)

func record() *store.Container {
	return &store.Container{
		ID: "c", SandboxID: "p", CreatedAt: time.Unix(1, 0), StartedAt: time.Unix(2, 0), Pid: 7,
		ImageID: "sha256:1", ImageRef: "r@sha256:2", ImageName: "r:tag", Resources: &runtime.Resources{MemoryLimit: 99},
		Config: &v1.ContainerConfig{
			Metadata: &v1.ContainerMetadata{Name: "name"}, Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"},
			Command: []string{"requested"}, Envs: []*v1.KeyValue{{Key: "E", Value: []byte("1")}}, CDIDevices: []*v1.CDIDevice{{Name: "v.example/net=a"}},
		},
	}
}

// TestContainer: plugins see what became of a container, with the limits of now.
func TestContainer(t *testing.T) {
	s := specification()
	limit := int64(5)
	s.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}},
	}
	r := record()
	var err error
	if r.Shown, err = Keep(s); err != nil {
		t.Fatal(err)
	}
	if policy := FromSpec(s).GetLinux().GetSeccompPolicy(); policy.GetDefaultAction() != string(specs.ActErrno) {
		t.Errorf("the seccomp policy is %v", policy)
	}
	c := Container(r)
	for what, ok := range map[string]bool{
		"ids":         c.GetId() == "c" && c.GetPodSandboxId() == "p" && c.GetName() == "name",
		"state":       c.GetState() == api.ContainerState_CONTAINER_RUNNING && c.GetPid() == 7,
		"times":       c.GetCreatedAt() == 1e9 && c.GetStartedAt() == 2e9 && c.GetFinishedAt() == 0,
		"process":     c.GetArgs()[0] == "old" && len(c.GetEnv()) == 3 && c.GetRlimits()[0].GetHard() == 2,
		"mounts":      len(c.GetMounts()) == 3,
		"annotations": c.GetAnnotations()["a"] == "1" && c.GetAnnotations()["drop"] == "x" && c.GetLabels()["l"] == "1",
		"limits":      c.GetLinux().GetResources().GetMemory().GetLimit().GetValue() == 99 && len(c.GetLinux().GetResources().GetDevices()) == 1,
		"devices":     c.GetCDIDevices()[0].GetName() == "v.example/net=a" && c.GetLinux().GetDevices()[0].GetPath() == "/dev/gone",
		"image":       c.GetImage().GetName() == "r:tag" && c.GetImage().GetConfigDigest() == "sha256:1",
	} {
		if !ok {
			t.Errorf("%s: %v", what, c)
		}
	}
	r.Shown = nil // made without NRI
	if c := Container(r); c.GetArgs()[0] != "requested" || c.GetEnv()[0] != "E=1" || c.GetLinux().GetResources().GetMemory().GetLimit().GetValue() != 99 {
		t.Errorf("one that was made without NRI: %v", c)
	}
}

// TestBareSpecification: nothing in a specification need be there.
func TestBareSpecification(t *testing.T) {
	for _, s := range []*specs.Spec{{}, {Process: &specs.Process{}, Linux: &specs.Linux{}}} {
		if c := FromSpec(s); c == nil {
			t.Error("no container")
		}
		if _, err := Keep(s); err != nil {
			t.Error(err)
		}
	}
}

func TestPod(t *testing.T) {
	r := &store.Sandbox{ID: "p", Requested: "vm", IPs: []string{"10.0.0.1"}, Config: &v1.PodSandboxConfig{
		Metadata: &v1.PodSandboxMetadata{Name: "n", Namespace: "ns", Uid: "u"}, Labels: map[string]string{"l": "1"},
		Linux: &v1.LinuxPodSandboxConfig{CgroupParent: "/pod", Overhead: &v1.LinuxContainerResources{CpuShares: 3}},
	}}
	p := Pod(r, "/run/netns/x")
	l := p.GetLinux()
	if p.GetId() != "p" || p.GetName() != "n" || p.GetNamespace() != "ns" || p.GetUid() != "u" || p.GetRuntimeHandler() != "vm" || p.GetIps()[0] != "10.0.0.1" ||
		l.GetCgroupParent() != "/pod" || l.GetPodOverhead().GetCpu().GetShares().GetValue() != 3 || l.GetPodResources() != nil || l.GetNamespaces()[0].GetPath() != "/run/netns/x" {
		t.Errorf("%v", p)
	}
	r.Resources, r.Overhead = &runtime.Resources{MemoryLimit: 7}, &runtime.Resources{CPUShares: 4}
	if l := Pod(r, "").GetLinux(); l.GetPodOverhead().GetCpu().GetShares().GetValue() != 4 || l.GetPodResources().GetMemory().GetLimit().GetValue() != 7 {
		t.Errorf("limits that were changed: %v", l)
	}
	if n := len(Pod(r, "").GetLinux().GetNamespaces()); n != 0 {
		t.Errorf("a pod without a network has %d namespaces", n)
	}
}
