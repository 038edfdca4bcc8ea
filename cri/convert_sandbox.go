package cri

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// maxHostname is what sethostname(2) takes, in bytes.
const maxHostname = 64

// convertSandbox checks c and translates it for a driver. What cannot be honoured gives
// errdefs.ErrInvalidArgument or ErrNotImplemented with the field's path. CreatedAt is
// left to the caller.
func convertSandbox(id string, c *v1.PodSandboxConfig, h hostFacts) (sandbox.Config, error) {
	if err := checkSandbox(c); err != nil {
		return sandbox.Config{}, err
	}
	out := sandbox.Config{
		ID:           id,
		Name:         c.GetMetadata().GetName(),
		Namespace:    c.GetMetadata().GetNamespace(),
		UID:          c.GetMetadata().GetUid(),
		Attempt:      c.GetMetadata().GetAttempt(),
		Hostname:     sandboxHostname(c, h),
		Labels:       maps.Clone(c.GetLabels()),
		Annotations:  maps.Clone(c.GetAnnotations()),
		Sysctls:      maps.Clone(c.GetLinux().GetSysctls()),
		CgroupParent: c.GetLinux().GetCgroupParent(),
		Privileged:   c.GetLinux().GetSecurityContext().GetPrivileged(),
	}
	steps := []func(*sandbox.Config, *v1.PodSandboxConfig, hostFacts) error{
		setSandboxNamespaces, setSandboxDNS, setSandboxPorts, setSandboxResources, setSandboxSecurity,
	}
	for _, step := range steps {
		if err := step(&out, c, h); err != nil {
			return sandbox.Config{}, err
		}
	}
	return out, nil
}

// checkSandbox checks what is passed on as it is.
func checkSandbox(c *v1.PodSandboxConfig) error {
	if c == nil {
		return badField("config", "is required")
	}
	if err := checkMetadata(c.GetMetadata()); err != nil {
		return err
	}
	if c.GetWindows() != nil {
		return badField("config.windows", "this is a Linux node")
	}
	if err := checkHostname(c.GetHostname()); err != nil {
		return err
	}
	if dir := c.GetLogDirectory(); dir != "" {
		if err := checkAbsolute("config.log_directory", dir); err != nil {
			return err
		}
	}
	if slices.Contains(strings.Split(c.GetLinux().GetCgroupParent(), "/"), "..") {
		return badField("config.linux.cgroup_parent", "%q leaves the hierarchy", c.GetLinux().GetCgroupParent())
	}
	return checkSysctls(c.GetLinux())
}

func checkMetadata(m *v1.PodSandboxMetadata) error {
	switch {
	case m == nil:
		return badField("config.metadata", "is required")
	case m.GetName() == "":
		return badField("config.metadata.name", "is required")
	case m.GetNamespace() == "":
		return badField("config.metadata.namespace", "is required")
	case m.GetUid() == "":
		return badField("config.metadata.uid", "is required")
	}
	for field, v := range map[string]string{"name": m.GetName(), "namespace": m.GetNamespace(), "uid": m.GetUid()} {
		// They become variables and arguments of CNI plugins, which ";" separates.
		if strings.ContainsAny(v, ";\x00\n") {
			return badField("config.metadata."+field, "%q holds a character that no name has", v)
		}
	}
	return nil
}

// checkHostname keeps names out of /etc/hosts and /etc/hostname that would change what
// these files say.
func checkHostname(name string) error {
	switch {
	case len(name) > maxHostname:
		return badField("config.hostname", "is longer than %d bytes", maxHostname)
	case strings.ContainsAny(name, " \t\r\n/#\x00"):
		return badField("config.hostname", "%q is no host name", name)
	}
	return nil
}

// sandboxHostname is the host's where the request has none: on the host's network, and
// for clients that leave it out.
func sandboxHostname(c *v1.PodSandboxConfig, h hostFacts) string {
	if c.GetHostname() != "" {
		return c.GetHostname()
	}
	return h.Hostname
}

func setSandboxDNS(out *sandbox.Config, c *v1.PodSandboxConfig, _ hostFacts) error {
	const field = "config.dns_config"
	d := c.GetDnsConfig()
	if len(d.GetServers())+len(d.GetSearches())+len(d.GetOptions()) == 0 {
		return nil
	}
	for i, server := range d.GetServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			return badField(at(field+".servers", i), "%w", err)
		}
	}
	if err := checkWords(field+".searches", d.GetSearches()); err != nil {
		return err
	}
	if err := checkWords(field+".options", d.GetOptions()); err != nil {
		return err
	}
	out.DNS = &sandbox.DNS{
		Servers:  slices.Clone(d.GetServers()),
		Searches: slices.Clone(d.GetSearches()),
		Options:  slices.Clone(d.GetOptions()),
	}
	return nil
}

// checkWords wants words that cannot start another line or word of resolv.conf.
func checkWords(field string, words []string) error {
	for i, word := range words {
		if word == "" || strings.ContainsAny(word, " \t\r\n\x00") {
			return badField(at(field, i), "%q is not one word", word)
		}
	}
	return nil
}

// setSandboxPorts leaves out ports that ask for nothing: those without a port of the
// host, and all of a pod that is on the host's network anyway.
func setSandboxPorts(out *sandbox.Config, c *v1.PodSandboxConfig, _ hostFacts) error {
	for i, p := range c.GetPortMappings() {
		field := at("config.port_mappings", i)
		if p.GetHostPort() < 0 || p.GetHostPort() > 65535 {
			return badField(field+".host_port", "%d is no port", p.GetHostPort())
		}
		if out.Network == runtime.NamespaceNode || p.GetHostPort() == 0 {
			continue
		}
		if p.GetContainerPort() < 1 || p.GetContainerPort() > 65535 {
			return badField(field+".container_port", "%d is no port", p.GetContainerPort())
		}
		name, ok := v1.Protocol_name[int32(p.GetProtocol())]
		if !ok {
			return badField(field+".protocol", "%d is unknown", p.GetProtocol())
		}
		if ip := p.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				return badField(field+".host_ip", "%w", err)
			}
		}
		out.PortMappings = append(out.PortMappings, sandbox.PortMapping{
			Protocol:      strings.ToLower(name),
			ContainerPort: p.GetContainerPort(),
			HostPort:      p.GetHostPort(),
			HostIP:        p.GetHostIp(),
		})
	}
	return nil
}

func setSandboxResources(out *sandbox.Config, c *v1.PodSandboxConfig, h hostFacts) (err error) {
	out.Resources, err = convertResources("config.linux.resources", c.GetLinux().GetResources(), h)
	if err != nil {
		return err
	}
	out.Overhead, err = convertResources("config.linux.overhead", c.GetLinux().GetOverhead(), h)
	return err
}

// setSandboxSecurity checks what is said of the processes of the sandbox itself. It has
// none of its own, so that users, groups and profiles have nothing to act on; they are
// checked all the same.
func setSandboxSecurity(out *sandbox.Config, c *v1.PodSandboxConfig, h hostFacts) (err error) {
	const field = "config.linux.security_context"
	sc := c.GetLinux().GetSecurityContext()
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return badField(field+".run_as_group", "needs run_as_user")
	}
	if _, ok := v1.SupplementalGroupsPolicy_name[int32(sc.GetSupplementalGroupsPolicy())]; !ok {
		return badField(field+".supplemental_groups_policy", "%d is unknown", sc.GetSupplementalGroupsPolicy())
	}
	if err := checkProfile(field+".seccomp", sc.GetSeccomp()); err != nil {
		return err
	}
	//nolint:staticcheck // deprecated, and still sent by old clients
	if _, err := namedProfile(field+".seccomp_profile_path", sc.GetSeccompProfilePath()); err != nil {
		return err
	}
	if err := checkProfile(field+".apparmor", sc.GetApparmor()); err != nil {
		return err
	}
	out.SELinuxLabel, out.MountLabel, err = selinuxLabels(field+".selinux_options", sc.GetSelinuxOptions(), "", "", h)
	return err
}
