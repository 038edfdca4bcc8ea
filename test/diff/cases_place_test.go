package diff

import (
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespaces are who shares what.
func namespaces() []testCase {
	set := func(r *request, change func(o *cri.NamespaceOption)) {
		change(r.podSecurity().NamespaceOptions)
		change(r.security().NamespaceOptions)
	}
	beside := func(r *request) {
		r.before = &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "before"}, Image: &cri.ImageSpec{Image: imagePlain}, LogPath: "before.log",
			Command: []string{"sleep", "600"},
			Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: r.podSecurity().NamespaceOptions.Pid},
			}},
		}
	}
	userns := func(r *request) {
		m := []*cri.IDMapping{{HostId: 131072, ContainerId: 0, Length: 65536}}
		u := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: m, Gids: m}
		set(r, func(o *cri.NamespaceOption) { o.UsernsOptions = u })
	}
	return []testCase{
		{"namespaces/host-network", func(r *request) {
			set(r, func(o *cri.NamespaceOption) { o.Network = cri.NamespaceMode_NODE })
			r.pod.Hostname = ""
		}},
		{"namespaces/host-pid", func(r *request) { set(r, func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_NODE }) }},
		{"namespaces/host-ipc", func(r *request) { set(r, func(o *cri.NamespaceOption) { o.Ipc = cri.NamespaceMode_NODE }) }},
		{"namespaces/pod-pid", func(r *request) { set(r, func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_POD }); beside(r) }},
		{"namespaces/target-pid", func(r *request) {
			beside(r)
			r.security().NamespaceOptions.Pid = cri.NamespaceMode_TARGET
		}},
		{"namespaces/target-pid-missing", func(r *request) {
			r.security().NamespaceOptions.Pid, r.security().NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, "none"
		}},
		{"namespaces/user", userns},
		{"namespaces/user-as-user", func(r *request) { userns(r); r.security().RunAsUser = id(1000) }},
		{"namespaces/user-host-network", func(r *request) {
			userns(r)
			set(r, func(o *cri.NamespaceOption) { o.Network = cri.NamespaceMode_NODE })
			r.pod.Hostname = ""
		}},
		{"namespaces/user-with-volume", func(r *request) {
			userns(r)
			m := r.podSecurity().NamespaceOptions.UsernsOptions.Uids
			r.container.Mounts = []*cri.Mount{{HostPath: r.dir, ContainerPath: "/volume", UidMappings: m, GidMappings: m}}
			r.prepare = volumeFile
		}},
		{"namespaces/no-options", func(r *request) { r.pod.Linux.SecurityContext, r.container.Linux.SecurityContext = nil, nil }},
	}
}

// names are host names and name resolution.
func names() []testCase {
	return []testCase{
		{"dns/none", func(r *request) { r.pod.DnsConfig = nil }},
		{"dns/empty", func(r *request) { r.pod.DnsConfig = &cri.DNSConfig{} }},
		{"dns/servers-alone", func(r *request) { r.pod.DnsConfig = &cri.DNSConfig{Servers: []string{"10.0.0.1", "10.0.0.2"}} }},
		{"dns/many-searches", func(r *request) {
			r.pod.DnsConfig.Searches = []string{"a.example", "b.example", "c.example", "d.example", "e.example", "f.example", "g.example"}
		}},
		{"dns/no-hostname", func(r *request) { r.pod.Hostname = "" }},
		{"dns/long-hostname", func(r *request) { r.pod.Hostname = strings.Repeat("h", 65) }},
		{"dns/qualified-hostname", func(r *request) { r.pod.Hostname = "pod.sub.test.svc.cluster.local" }},
	}
}

// sysctls are the pod's.
func sysctls() []testCase {
	with := func(name string, values map[string]string) testCase {
		return testCase{"sysctls/" + name, func(r *request) { r.pod.Linux.Sysctls = values }}
	}
	return []testCase{
		with("ipc", map[string]string{"kernel.shm_rmid_forced": "1", "kernel.msgmax": "9000", "fs.mqueue.msg_max": "100", "kernel.sem": "32000 1024000000 500 32000"}),
		with("net", map[string]string{"net.ipv4.ip_local_port_range": "1024 65000", "net.ipv4.tcp_syncookies": "0", "net.core.somaxconn": "512"}),
		with("net-slashes", map[string]string{"net/ipv4/tcp_fin_timeout": "33"}),
		with("ports-and-ping", map[string]string{"net.ipv4.ip_unprivileged_port_start": "1000", "net.ipv4.ping_group_range": "10 20"}),
		with("of-the-host", map[string]string{"vm.swappiness": "10"}),
		with("unknown", map[string]string{"net.ipv4.no_such": "1"}),
		with("bad-value", map[string]string{"net.ipv4.tcp_syncookies": "many"}),
		{"sysctls/net-of-host-network", func(r *request) {
			r.podSecurity().NamespaceOptions.Network, r.security().NamespaceOptions.Network = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
			r.pod.Linux.Sysctls = map[string]string{"net.ipv4.tcp_fin_timeout": "33"}
		}},
	}
}
