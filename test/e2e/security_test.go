package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestSecurityContext in its fields, as the container sees them.
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
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
  - name: able
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext:
      runAsUser: 0
      runAsNonRoot: false
      capabilities: {drop: [ALL], add: [NET_ADMIN]}
  - name: unconfined
    image: BUSYBOX
    command: [sleep, "3600"]
    securityContext: {seccompProfile: {type: Unconfined}, privileged: true, runAsUser: 0, runAsNonRoot: false}
`)
		e.ready("p")
		for _, c := range []struct{ container, command, want string }{
			{"app", "id -u; id -g; id -G", "1234\n2345\n2345 3456"},
			{"app", "touch /x 2>/dev/null || echo read-only", "read-only"},
			{"app", "grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status | tr -d '\\t'", "CapEff:0000000000000000\nNoNewPrivs:1\nSeccomp:2"},
			{"app", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced", "99\n1"},
			{"able", "grep CapEff /proc/self/status | tr -d '\\t'", "CapEff:0000000000001000"},
			{"unconfined", "grep -E '^Seccomp:' /proc/self/status | tr -d '\\t'; mount -t tmpfs x /mnt && echo mounted", "Seccomp:0\nmounted"},
		} {
			if got := strings.TrimSpace(e.exec("p", c.container, c.command)); got != c.want {
				e.t.Errorf("%s: %s: %q, want %q", c.container, c.command, got, c.want)
			}
		}
		e.pod("root", `
securityContext: {runAsNonRoot: true}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.eventually("a container of root is refused", func() error {
			s := container(e.get("root"), "app")
			if s.State.Waiting == nil || s.State.Waiting.Reason != "CreateContainerConfigError" {
				return fmt.Errorf("it is %+v", s.State)
			}
			return nil
		})
	})
}

// TestSeccompProfile: a profile of the node's refuses a system call.
func TestSeccompProfile(t *testing.T) {
	onHulls(t, func(e *env) {
		e.ok(os.MkdirAll("/var/lib/kubelet/seccomp", 0o755))
		profile := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`
		e.ok(os.WriteFile("/var/lib/kubelet/seccomp/"+e.ns+".json", []byte(profile), 0o644))
		e.pod("p", `
securityContext: {seccompProfile: {type: Localhost, localhostProfile: NAMESPACE.json}}
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"]}]
`)
		e.ready("p")
		if got := e.exec("p", "app", "mkdir /tmp/x 2>/dev/null || echo refused; touch /tmp/y && echo fine"); got != "refused\nfine\n" {
			e.t.Errorf("it says %q", got)
		}
	})
}

// TestUserNamespace: root in the pod is nobody on the node.
func TestUserNamespace(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
hostUsers: false
volumes: [{name: v, emptyDir: {}}]
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
		e.ready("p")
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
