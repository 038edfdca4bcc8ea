package diff

import (
	"slices"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The kubelet's lists for a container whose procMount is Default (k8s.io/kubernetes,
// pkg/securitycontext).
var (
	maskedPaths   = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// base is a pod with one container as the kubelet of a cluster asks for it.
func base(c testCase, logs string) *request {
	name := strings.ReplaceAll(c.name, "/", "-")
	return &request{
		stopTimeout: 10, execTimeout: 30,
		pod: &cri.PodSandboxConfig{
			Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: "uid-" + name},
			Hostname:     "pod-of-test",
			LogDirectory: logs,
			DnsConfig:    &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"test.svc.cluster.local", "svc.cluster.local"}, Options: []string{"ndots:5"}},
			Labels:       map[string]string{"io.kubernetes.pod.name": name},
			Annotations:  map[string]string{"kubernetes.io/config.source": "api"},
			Linux: &cri.LinuxPodSandboxConfig{
				CgroupParent: "/kubepods/besteffort/" + name,
				SecurityContext: &cri.LinuxSandboxSecurityContext{
					NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
					Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
				},
			},
		},
		container: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main"},
			Image:    &cri.ImageSpec{Image: imagePlain, UserSpecifiedImage: imagePlain},
			LogPath:  "main.log",
			Labels:   map[string]string{"io.kubernetes.container.name": "main"},
			Linux: &cri.LinuxContainerConfig{
				Resources: &cri.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000},
				SecurityContext: &cri.LinuxContainerSecurityContext{
					NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
					MaskedPaths:      slices.Clone(maskedPaths), ReadonlyPaths: slices.Clone(readonlyPaths),
				},
			},
		},
	}
}

// cases are all configurations that are compared.
func cases() []testCase {
	return slices.Concat(
		[]testCase{{"base/kubelet", func(*request) {}}},
		credentials(), capabilities(), seccomp(), namespaces(), names(), sysctls(), volumes(), nodes(),
		resources(), processes(), commands(), ends(),
	)
}

// security is the container's security context.
func (r *request) security() *cri.LinuxContainerSecurityContext {
	return r.container.Linux.SecurityContext
}

// podSecurity is the pod's.
func (r *request) podSecurity() *cri.LinuxSandboxSecurityContext { return r.pod.Linux.SecurityContext }

// runs has the container run a command of its own and end.
func (r *request) runs(command ...string) {
	r.container.Command, r.ends = command, true
}
