package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// registries are those whose images the tests use; CRI-O knows no mirror of every registry.
var registries = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io"}

// Crio starts CRI-O with crun; bin holds crio and pinns. It drops the process of the pod where
// it can and does not sync logs, which is how it is fastest.
func Crio(bin, conmon, crun string) Starter {
	return func(p Paths) (*exec.Cmd, error) {
		config, mirrors, policy := filepath.Join(p.Dir, "crio.conf"), filepath.Join(p.Dir, "registries.conf"), filepath.Join(p.Dir, "policy.json")
		var list strings.Builder
		list.WriteString("unqualified-search-registries = []\nshort-name-mode = \"disabled\"\n")
		for _, name := range registries {
			fmt.Fprintf(&list, "[[registry]]\nprefix = %[1]q\nlocation = %[1]q\n[[registry.mirror]]\nlocation = %[2]q\ninsecure = true\n", name, p.Registry)
		}
		quoted := make([]string, len(CNIBin))
		for i, dir := range CNIBin {
			quoted[i] = fmt.Sprintf("%q", dir)
		}
		text := fmt.Sprintf(crioConfig, p.Root, p.State, p.Dir, p.Socket, p.CNIConf, strings.Join(quoted, ", "),
			filepath.Join(bin, "pinns"), conmon, crun)
		for path, data := range map[string]string{
			config: text, mirrors: list.String(), policy: `{"default": [{"type": "insecureAcceptAnything"}]}`,
		} {
			if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
				return nil, err
			}
		}
		return exec.Command(filepath.Join(bin, "crio"), "--config", config, "--config-dir", "",
			"--registries-conf", mirrors, "--registries-conf-dir", filepath.Join(p.Dir, "no-more-registries")), nil
	}
}

const crioConfig = `[crio]
root = %[1]q
runroot = %[2]q
storage_driver = "overlay"
log_dir = "%[3]s/logs"
version_file = "%[3]s/version"
version_file_persist = ""
clean_shutdown_file = "%[3]s/clean.shutdown"
[crio.api]
listen = %[4]q
stream_address = "127.0.0.1"
stream_port = "0"
grpc_max_send_msg_size = 83886080
[crio.image]
pause_image = "registry.k8s.io/pause:3.10.2"
signature_policy = "%[3]s/policy.json"
signature_policy_dir = "%[3]s/policies"
[crio.network]
network_dir = %[5]q
plugin_dirs = [%[6]s]
[crio.nri]
enable_nri = false
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_runtime = "crun"
drop_infra_ctr = true
no_sync_log = true
namespaces_dir = "%[3]s/ns"
container_exits_dir = "%[3]s/exits"
container_attach_socket_dir = "%[3]s/attach"
hooks_dir = []
cdi_spec_dirs = []
pinns_path = %[7]q
log_level = "info"
[crio.runtime.runtimes.crun]
runtime_path = %[9]q
runtime_type = "oci"
runtime_root = "%[3]s/crun"
monitor_path = %[8]q
monitor_cgroup = "pod"
`
