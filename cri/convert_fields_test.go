package cri

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEveryFieldIsKnown fails when a newer API has a field that nobody has decided on:
// whoever adds it here has honoured it or refuses it.
func TestEveryFieldIsKnown(t *testing.T) {
	for _, tc := range []struct {
		message proto.Message
		fields  string
	}{
		{&v1.PodSandboxConfig{}, "metadata hostname log_directory dns_config port_mappings labels annotations linux windows"},
		{&v1.LinuxPodSandboxConfig{}, "cgroup_parent security_context sysctls overhead resources"},
		{&v1.LinuxSandboxSecurityContext{}, "namespace_options selinux_options run_as_user run_as_group readonly_rootfs supplemental_groups supplemental_groups_policy privileged seccomp apparmor seccomp_profile_path"},
		{&v1.PodSandboxMetadata{}, "name uid namespace attempt"},
		{&v1.DNSConfig{}, "servers searches options"},
		{&v1.PortMapping{}, "protocol container_port host_port host_ip"},
		{&v1.NamespaceOption{}, "network pid ipc target_id userns_options"},
		{&v1.UserNamespace{}, "mode uids gids"},
		{&v1.IDMapping{}, "host_id container_id length"},
		{&v1.ContainerConfig{}, "metadata image command args working_dir envs mounts devices labels annotations log_path stdin stdin_once tty linux windows CDI_devices stop_signal"},
		{&v1.LinuxContainerConfig{}, "resources security_context"},
		{&v1.LinuxContainerSecurityContext{}, "capabilities privileged namespace_options selinux_options run_as_user run_as_group run_as_username readonly_rootfs supplemental_groups supplemental_groups_policy no_new_privs masked_paths readonly_paths seccomp apparmor apparmor_profile seccomp_profile_path"},
		{&v1.LinuxContainerResources{}, "cpu_period cpu_quota cpu_shares memory_limit_in_bytes oom_score_adj cpuset_cpus cpuset_mems hugepage_limits unified memory_swap_limit_in_bytes"},
		{&v1.HugepageLimit{}, "page_size limit"},
		{&v1.Capability{}, "add_capabilities drop_capabilities add_ambient_capabilities"},
		{&v1.SecurityProfile{}, "profile_type localhost_ref"},
		{&v1.SELinuxOption{}, "user role type level"},
		{&v1.Mount{}, "container_path host_path readonly selinux_relabel propagation uidMappings gidMappings recursive_read_only image image_sub_path mount_options"},
		{&v1.Device{}, "container_path host_path permissions"},
		{&v1.KeyValue{}, "key value"},
		{&v1.ImageSpec{}, "image annotations user_specified_image runtime_handler image_ref"},
	} {
		d := tc.message.ProtoReflect().Descriptor()
		known := strings.Fields(tc.fields)
		for i := range d.Fields().Len() {
			if name := string(d.Fields().Get(i).Name()); !slices.Contains(known, name) {
				t.Errorf("%s.%s is neither honoured nor refused", d.Name(), name)
			}
		}
	}
}
