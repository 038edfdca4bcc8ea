package cri

import (
	"slices"
	"strings"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkSysctls wants sysctls of namespaces that the pod has to itself: any other would
// change the host.
func checkSysctls(c *v1.LinuxPodSandboxConfig) error {
	options := c.GetSecurityContext().GetNamespaceOptions()
	for name, value := range c.GetSysctls() {
		field := in("config.linux.sysctls", name)
		if strings.ContainsAny(value, "\n\x00") {
			return badField(field, "the value is more than one line")
		}
		switch sysctlNamespace(name) {
		case "network":
			if options.GetNetwork() == v1.NamespaceMode_NODE {
				return badField(field, "the pod is on the host's network")
			}
		case "ipc":
			if options.GetIpc() == v1.NamespaceMode_NODE {
				return badField(field, "the pod shares the host's IPC namespace")
			}
		default:
			return badField(field, "belongs to no namespace of a pod")
		}
	}
	return nil
}

// sysctlNamespace says which namespace has its own value of a sysctl, "" for none.
func sysctlNamespace(name string) string {
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '/' })
	if strings.Contains(name, "..") || len(parts) < 2 {
		return ""
	}
	ipc := []string{"msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"}
	switch {
	case parts[0] == "net":
		return "network"
	case parts[0] == "kernel" && len(parts) == 2 && slices.Contains(ipc, parts[1]):
		return "ipc"
	case parts[0] == "fs" && parts[1] == "mqueue" && len(parts) == 3:
		return "ipc"
	}
	return ""
}
