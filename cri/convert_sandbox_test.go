package cri

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

func testPod() *v1.PodSandboxConfig {
	ids := []*v1.IDMapping{{HostId: 65536, Length: 65536}}
	return &v1.PodSandboxConfig{
		Metadata:     &v1.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "u", Attempt: 3},
		Hostname:     "pod",
		LogDirectory: "/var/log/pods/x",
		DnsConfig:    &v1.DNSConfig{Servers: []string{"10.0.0.10", "fd00::a"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		PortMappings: []*v1.PortMapping{
			{ContainerPort: 80},
			{ContainerPort: 53, HostPort: 5353, Protocol: v1.Protocol_UDP, HostIp: "::1"},
		},
		Labels:      map[string]string{"l": "1"},
		Annotations: map[string]string{"a": "1"},
		Linux: &v1.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod1",
			Sysctls:      map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1", "fs.mqueue.msg_max": "9"},
			Overhead:     &v1.LinuxContainerResources{MemoryLimitInBytes: 5},
			SecurityContext: &v1.LinuxSandboxSecurityContext{
				Privileged: true,
				NamespaceOptions: &v1.NamespaceOption{
					Pid:           v1.NamespaceMode_CONTAINER,
					UsernsOptions: &v1.UserNamespace{Uids: ids, Gids: ids},
				},
			},
		},
	}
}

func TestConvertSandbox(t *testing.T) {
	got, err := convertSandbox("s1", testPod(), testFacts())
	if err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{HostID: 65536, Size: 65536}}
	adj := 0
	want := sandbox.Config{
		ID: "s1", Name: "pod", Namespace: "ns", UID: "u", Attempt: 3, Hostname: "pod",
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"},
		Network: runtime.NamespacePod, IPC: runtime.NamespacePod, PID: runtime.NamespaceContainer,
		UserNS:       &sandbox.IDMappings{UIDs: ids, GIDs: ids},
		DNS:          &sandbox.DNS{Servers: []string{"10.0.0.10", "fd00::a"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}},
		PortMappings: []sandbox.PortMapping{{Protocol: "udp", ContainerPort: 53, HostPort: 5353, HostIP: "::1"}},
		Sysctls:      testPod().Linux.Sysctls,
		CgroupParent: "/kubepods/pod1",
		Overhead:     &runtime.Resources{MemoryLimit: 5, MemorySwapLimit: 5, OOMScoreAdj: &adj},
		Privileged:   true,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestConvertSandboxOnHostNetwork(t *testing.T) {
	pod := testPod()
	pod.Hostname, pod.DnsConfig, pod.Linux.Sysctls = "", &v1.DNSConfig{}, nil
	pod.Linux.SecurityContext.NamespaceOptions = &v1.NamespaceOption{Network: v1.NamespaceMode_NODE}
	got, err := convertSandbox("s1", pod, testFacts())
	if err != nil {
		t.Fatal(err)
	}
	if got.Hostname != "node1" || got.Network != runtime.NamespaceNode || got.DNS != nil || got.PortMappings != nil || got.UserNS != nil {
		t.Errorf("got %+v", got)
	}
}

func TestConvertSandboxRefuses(t *testing.T) {
	options := func(p *v1.PodSandboxConfig) *v1.NamespaceOption { return p.Linux.SecurityContext.NamespaceOptions }
	const ns = "config.linux.security_context.namespace_options"
	for name, tc := range map[string]struct {
		change func(*v1.PodSandboxConfig)
		field  string
	}{
		"no metadata":      {func(p *v1.PodSandboxConfig) { p.Metadata = nil }, "config.metadata"},
		"no name":          {func(p *v1.PodSandboxConfig) { p.Metadata.Name = "" }, "config.metadata.name"},
		"no namespace":     {func(p *v1.PodSandboxConfig) { p.Metadata.Namespace = "" }, "config.metadata.namespace"},
		"no uid":           {func(p *v1.PodSandboxConfig) { p.Metadata.Uid = "" }, "config.metadata.uid"},
		"windows":          {func(p *v1.PodSandboxConfig) { p.Windows = &v1.WindowsPodSandboxConfig{} }, "config.windows"},
		"long hostname":    {func(p *v1.PodSandboxConfig) { p.Hostname = strings.Repeat("x", 65) }, "config.hostname"},
		"two lines":        {func(p *v1.PodSandboxConfig) { p.Hostname = "x\n1.2.3.4 y" }, "config.hostname"},
		"log directory":    {func(p *v1.PodSandboxConfig) { p.LogDirectory = "x" }, "config.log_directory"},
		"cgroup parent":    {func(p *v1.PodSandboxConfig) { p.Linux.CgroupParent = "/a/../../b" }, "config.linux.cgroup_parent"},
		"DNS server":       {func(p *v1.PodSandboxConfig) { p.DnsConfig.Servers[1] = "x" }, "config.dns_config.servers[1]"},
		"DNS search":       {func(p *v1.PodSandboxConfig) { p.DnsConfig.Searches[0] = "a\nb" }, "config.dns_config.searches[0]"},
		"DNS option":       {func(p *v1.PodSandboxConfig) { p.DnsConfig.Options[0] = "" }, "config.dns_config.options[0]"},
		"host port":        {func(p *v1.PodSandboxConfig) { p.PortMappings[0].HostPort = 65536 }, "config.port_mappings[0].host_port"},
		"container port":   {func(p *v1.PodSandboxConfig) { p.PortMappings[1].ContainerPort = 0 }, "config.port_mappings[1].container_port"},
		"protocol":         {func(p *v1.PodSandboxConfig) { p.PortMappings[1].Protocol = 9 }, "config.port_mappings[1].protocol"},
		"host IP":          {func(p *v1.PodSandboxConfig) { p.PortMappings[1].HostIp = "x" }, "config.port_mappings[1].host_ip"},
		"sysctl":           {func(p *v1.PodSandboxConfig) { p.Linux.Sysctls["kernel.panic"] = "1" }, `config.linux.sysctls["kernel.panic"]`},
		"sysctl path":      {func(p *v1.PodSandboxConfig) { p.Linux.Sysctls["net/../vm/x"] = "1" }, `config.linux.sysctls["net/../vm/x"]`},
		"network":          {func(p *v1.PodSandboxConfig) { options(p).Network = v1.NamespaceMode_CONTAINER }, ns + ".network"},
		"ipc":              {func(p *v1.PodSandboxConfig) { options(p).Ipc = v1.NamespaceMode_TARGET }, ns + ".ipc"},
		"pid":              {func(p *v1.PodSandboxConfig) { options(p).Pid = v1.NamespaceMode_TARGET }, ns + ".pid"},
		"target":           {func(p *v1.PodSandboxConfig) { options(p).TargetId = "x" }, ns + ".target_id"},
		"userns container": {func(p *v1.PodSandboxConfig) { options(p).UsernsOptions.Mode = v1.NamespaceMode_CONTAINER }, ns + ".userns_options.mode"},
		"userns node":      {func(p *v1.PodSandboxConfig) { options(p).UsernsOptions.Mode = v1.NamespaceMode_NODE }, ns + ".userns_options"},
		"userns no range":  {func(p *v1.PodSandboxConfig) { options(p).UsernsOptions.Uids = nil }, ns + ".userns_options.uids"},
		"userns two ranges": {func(p *v1.PodSandboxConfig) {
			u := options(p).UsernsOptions
			u.Gids = append(u.Gids, u.Gids[0])
		}, ns + ".userns_options.gids"},
		"userns without root": {func(p *v1.PodSandboxConfig) { options(p).UsernsOptions.Uids[0].ContainerId = 1 }, ns + ".userns_options.uids[0].container_id"},
		"userns empty range":  {func(p *v1.PodSandboxConfig) { options(p).UsernsOptions.Uids[0].Length = 0 }, ns + ".userns_options.uids[0].length"},
		"userns beyond":       {func(p *v1.PodSandboxConfig) { options(p).UsernsOptions.Uids[0].HostId = 1<<32 - 65536 }, ns + ".userns_options.uids[0]"},
		"run_as_group": {func(p *v1.PodSandboxConfig) {
			p.Linux.SecurityContext.RunAsGroup = &v1.Int64Value{}
		}, "config.linux.security_context.run_as_group"},
		"seccomp": {func(p *v1.PodSandboxConfig) {
			p.Linux.SecurityContext.Seccomp = &v1.SecurityProfile{LocalhostRef: "x"}
		}, "config.linux.security_context.seccomp.localhost_ref"},
		"selinux": {func(p *v1.PodSandboxConfig) {
			p.Linux.SecurityContext.SelinuxOptions = &v1.SELinuxOption{Level: "x"}
		}, "config.linux.security_context.selinux_options.level"},
		"resources": {func(p *v1.PodSandboxConfig) { p.Linux.Overhead.CpuShares = -1 }, "config.linux.overhead.cpu_shares"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod()
			tc.change(pod)
			_, err := convertSandbox("s1", pod, testFacts())
			wantRefusal(t, err, errdefs.ErrInvalidArgument, tc.field)
		})
	}
	t.Run("no config", func(t *testing.T) {
		_, err := convertSandbox("s1", nil, testFacts())
		wantRefusal(t, err, errdefs.ErrInvalidArgument, "config")
	})
	t.Run("handler without user namespaces", func(t *testing.T) {
		h := testFacts()
		h.UserNamespaces = false
		_, err := convertSandbox("s1", testPod(), h)
		wantRefusal(t, err, errdefs.ErrNotImplemented, ns+".userns_options.mode")
	})
}

func TestSysctlsOfTheHost(t *testing.T) {
	for name, o := range map[string]*v1.NamespaceOption{
		"net.ipv4.ip_forward": {Network: v1.NamespaceMode_NODE},
		"kernel.shmmax":       {Ipc: v1.NamespaceMode_NODE},
		"fs.mqueue.msg_max":   {Ipc: v1.NamespaceMode_NODE},
	} {
		err := checkSysctls(&v1.LinuxPodSandboxConfig{
			Sysctls:         map[string]string{name: "1"},
			SecurityContext: &v1.LinuxSandboxSecurityContext{NamespaceOptions: o},
		})
		if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
