package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSecurityContext in its fields, as the container sees them. What the node has no module
// for (appArmorProfile, seLinuxOptions) is held where there is one, by make test-node.
func TestSecurityContext(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
securityContext:
  runAsUser: 1234
  runAsGroup: 2345
  supplementalGroups: [3456]
  runAsNonRoot: true
  sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "99"}, {name: kernel.shm_rmid_forced, value: "1"}]
  seccompProfile: {type: RuntimeDefault}
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  - name: able
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext:
      runAsUser: 0
      runAsGroup: 777
      runAsNonRoot: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_ADMIN]}
  - name: unconfined
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext: {seccompProfile: {type: Unconfined}, allowPrivilegeEscalation: true, runAsUser: 0, runAsNonRoot: false}
  - name: privileged
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext: {privileged: true, runAsUser: 0, runAsNonRoot: false}
`)
		e.pod("strict", `
securityContext: {runAsUser: 0, supplementalGroups: [3456], supplementalGroupsPolicy: Strict}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.pod("merged", `
securityContext: {runAsUser: 0, supplementalGroups: [3456], supplementalGroupsPolicy: Merge}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		for _, name := range []string{"p", "strict", "merged"} {
			e.ready(name)
		}
		const status = "grep -E '^(%s):' /proc/self/status | tr -d '\\t'"
		for _, c := range []struct{ pod, container, command, want string }{
			{"p", "app", "id -u; id -g; id -G", "1234\n2345\n2345 3456"},
			{"p", "app", fmt.Sprintf(status, "NoNewPrivs|Seccomp|CapBnd"), "CapBnd:0000000000000000\nNoNewPrivs:1\nSeccomp:2"},
			{"p", "app", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "99\n1"},
			{"p", "able", "id -u; id -g", "0\n777"},
			{"p", "able", "touch /x 2>/dev/null || echo read-only", "read-only"},
			{"p", "able", fmt.Sprintf(status, "CapEff|CapBnd"), "CapEff:0000000000001000\nCapBnd:0000000000001000"},
			{"p", "unconfined", "touch /x && echo writable", "writable"},
			{"p", "unconfined", fmt.Sprintf(status, "NoNewPrivs|Seccomp"), "NoNewPrivs:0\nSeccomp:0"},
			{"p", "unconfined", "mount -t tmpfs x /mnt 2>/dev/null || echo refused", "refused"},
			{"p", "privileged", "mount -t tmpfs x /mnt && echo mounted", "mounted"},
			{"strict", "app", "id -G", "0 3456"},
			{"merged", "app", "id -G", "0 10 3456"},
		} {
			if got := strings.TrimSpace(e.exec(c.pod, c.container, c.command)); got != c.want {
				e.t.Errorf("%s: %s: %q, want %q", c.container, c.command, got, c.want)
			}
		}
	})
}

// TestSecurityRefusals: what a node must not run.
func TestSecurityRefusals(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("root", `
securityContext: {runAsNonRoot: true}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.pod("unsafe", `
securityContext: {sysctls: [{name: net.core.somaxconn, value: "99"}]}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.waiting("root", "CreateContainerConfigError")
		if p := e.ended("unsafe"); p.Status.Reason != "SysctlForbidden" {
			e.t.Errorf("the pod with an unsafe sysctl ended because of %s: %s", p.Status.Reason, p.Status.Message)
		}
	})
}

// TestSeccompProfile: a profile of the node's refuses a system call, in the whole pod but for
// the container that has another.
func TestSeccompProfile(t *testing.T) {
	onHulls(t, func(e *env) {
		e.ok(os.MkdirAll("/var/lib/kubelet/seccomp", 0o755))
		profile := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`
		e.ok(os.WriteFile("/var/lib/kubelet/seccomp/"+e.ns+".json", []byte(profile), 0o644))
		e.pod("p", `
securityContext: {seccompProfile: {type: Localhost, localhostProfile: NAMESPACE.json}}
containers:
  - {name: app, image: BUSYBOX, command: [sleep, "3600"]}
  - {name: other, image: BUSYBOX, command: [sleep, "3600"], securityContext: {seccompProfile: {type: RuntimeDefault}}}
`)
		e.pod("own", `
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: NAMESPACE.json}}
`)
		e.ready("p")
		e.ready("own")
		const makes = "mkdir /tmp/x 2>/dev/null || echo refused; touch /tmp/y && echo fine"
		for _, c := range []struct{ pod, container, want string }{
			{"p", "app", "refused\nfine\n"}, {"p", "other", "fine\n"}, {"own", "app", "refused\nfine\n"},
		} {
			if got := e.exec(c.pod, c.container, makes); got != c.want {
				e.t.Errorf("%s in %s says %q", c.container, c.pod, got)
			}
		}
	})
}

// TestUserNamespace: root in the pod is nobody on the node, and may have all of /proc.
func TestUserNamespace(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
hostUsers: false
volumes: [{name: v, emptyDir: {}}]
containers:
  - {name: app, image: BUSYBOX, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}
  - {name: bare, image: BUSYBOX, command: [sleep, "3600"], securityContext: {procMount: Unmasked}}
`)
		e.ready("p")
		const masks = "grep -c ' /proc/' /proc/mounts || true"
		if masked, bare := e.exec("p", "app", masks), e.exec("p", "bare", masks); masked == "0\n" || bare != "0\n" {
			e.t.Errorf("of /proc there is covered %q, with procMount Unmasked %q", masked, bare)
		}
		out := strings.Fields(e.exec("p", "app", "id -u; touch /v/x; stat -c %u /v/x /bin/sh; cat /proc/self/uid_map"))
		if len(out) < 6 || out[0] != "0" || out[1] != "0" || out[2] != "0" || out[3] != "0" || out[4] == "0" || out[5] != "65536" {
			e.t.Errorf("it says %q", out)
		}
	})
}

// TestHostNamespaces: a pod may have the node's instead of its own; a virtual machine
// cannot, and says so.
func TestHostNamespaces(t *testing.T) {
	onHulls(t, func(e *env) {
		want := map[string]string{"hostNetwork": "net", "hostPID": "pid", "hostIPC": "ipc"}
		for field, ns := range want {
			name := strings.ToLower(field)
			e.pod(name, field+": true\ncontainers: [{name: app, image: BUSYBOX, command: [sleep, '3600'], securityContext: {privileged: true}}]")
			if e.hull == virtual {
				e.event(name, "FailedCreatePodSandBox", "limitations.md")
				continue
			}
			e.ready(name)
			host, err := os.Readlink("/proc/self/ns/" + ns)
			e.ok(err)
			if got := strings.TrimSpace(e.exec(name, "app", "readlink /proc/self/ns/"+ns)); got != host {
				e.t.Errorf("with %s its namespace is %s, the node's %s", field, got, host)
			}
		}
	})
}

// TestHostPort: the node's port leads to the pod.
func TestHostPort(t *testing.T) {
	onHulls(t, func(e *env) {
		port := map[string]string{kernel: "18088", virtual: "18089"}[e.hull]
		e.pod("p", `
containers:
  - name: app
    image: AGNHOST
    args: [netexec, --http-port=8080]
    ports: [{containerPort: 8080, hostPort: `+port+`}]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
`)
		e.pod("client", idle)
		e.ready("p")
		e.ready("client")
		if got := e.exec("client", "app", "wget -qO- -T 10 http://"+nodeAddress+":"+port+"/hostname"); got != "p" {
			e.t.Errorf("the port answers %q", got)
		}
		if _, got, err := askNode(port); got != "p" {
			e.t.Errorf("the port answers the node %q, %v", got, err)
		}
		e.ok(e.Client.CoreV1().Pods(e.ns).Delete(e.t.Context(), "p", metav1.DeleteOptions{}))
		e.gone("p")
		if _, got, err := askNode(port); !errors.Is(err, unix.ECONNREFUSED) {
			e.t.Errorf("when the pod has gone the port answers %q, %v", got, err)
		}
	})
}

// TestStatusNamesUser: a pod's status says as whom its container runs.
func TestStatusNamesUser(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
securityContext: {runAsUser: 1000, runAsGroup: 2000, supplementalGroups: [3000]}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.ready("p")
		u := container(e.get("p"), "app").User
		if u == nil || u.Linux == nil || u.Linux.UID != 1000 || u.Linux.GID != 2000 {
			e.t.Errorf("it names %+v", u)
		}
	})
}
