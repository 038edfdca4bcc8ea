package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAPIVolumes: ConfigMaps, Secrets, projections and what is known of the pod arrive as
// files, and follow their objects while the pod runs.
func TestAPIVolumes(t *testing.T) {
	onHulls(t, func(e *env) {
		_, err := e.Client.CoreV1().ConfigMaps(e.ns).Create(e.t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: map[string]string{"key": "old", "other": "thing"},
		}, metav1.CreateOptions{})
		e.ok(err)
		_, err = e.Client.CoreV1().Secrets(e.ns).Create(e.t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"password": "old"},
		}, metav1.CreateOptions{})
		e.ok(err)
		e.pod("p", `
volumes:
  - {name: config, configMap: {name: config, defaultMode: 0440}}
  - {name: secret, secret: {secretName: secret}}
  - {name: self, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - name: all
    projected:
      sources:
        - configMap: {name: config, items: [{key: other, path: deep/other}]}
        - secret: {name: secret}
        - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
        - serviceAccountToken: {path: token}
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    resources: {limits: {memory: 64Mi}}
    env:
      - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
      - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
      - {name: KEY, valueFrom: {configMapKeyRef: {name: config, key: key}}}
    envFrom: [{prefix: SECRET_, secretRef: {name: secret}}]
    volumeMounts:
      - {name: config, mountPath: /config}
      - {name: config, mountPath: /one, subPath: key}
      - {name: secret, mountPath: /secret, readOnly: true}
      - {name: all, mountPath: /all}
      - {name: self, mountPath: /self}
`)
		p := e.ready("p")
		for command, want := range map[string]string{
			"cat /config/key /secret/password /all/password /all/deep/other": "oldoldoldthing",
			"stat -Lc %a /config/key":                       "440",
			"cat /one":                                      "old",
			"cat /self/name":                                "p",
			"cat /all/labels":                               `app="p"`,
			"cut -d. -f2 /all/token | wc -l":                "1",
			"echo $POD_IP $MEMORY $KEY $SECRET_password":    p.Status.PodIP + " 67108864 old old",
			"touch /config/x 2>/dev/null || echo read-only": "read-only",
		} {
			if got := strings.TrimSpace(e.exec("p", "app", command)); got != want {
				e.t.Errorf("%s: %q, want %q", command, got, want)
			}
		}
		e.kubectl("patch", "configmap", "config", "--patch", `{"data": {"key": "new"}}`)
		e.kubectl("patch", "secret", "secret", "--patch", `{"stringData": {"password": "new"}}`)
		e.kubectl("label", "pod", "p", "more=labels")
		e.eventually("the files are new", func() error {
			out := e.exec("p", "app", "cat /config/key /secret/password /all/password; grep -c more /all/labels || true")
			if out != "newnewnew1\n" {
				return fmt.Errorf("they are %q", out)
			}
			return nil
		})
		// A subPath keeps what it was, as everywhere.
		if got := e.exec("p", "app", "cat /one"); got != "old" {
			e.t.Errorf("the file by its subPath is %q", got)
		}
	})
}

// TestEmptyDir: it is shared by a pod's containers, outlives them, and is as large, on disk or
// in memory, and of whom the pod says.
func TestEmptyDir(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
securityContext: {fsGroup: 4321}
volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "test -e /disk/died || { echo disk > /disk/file; echo memory > /memory/file; touch /disk/died; exit 1; }; sleep 3600"]
    volumeMounts: &mounts [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}, {name: disk, mountPath: /sub, subPath: a/b}]
  - name: other
    image: BUSYBOX
    command: [sleep, "3600"]
    volumeMounts: *mounts
`)
		e.restarted("p", "app", 1)
		e.ready("p")
		for command, want := range map[string]string{
			"cat /disk/file /memory/file":                                  "disk\nmemory",
			"stat -c %g /disk /memory":                                     "4321\n4321",
			"echo x > /sub/file && cat /disk/a/b/file":                     "x",
			"grep -c ' /memory tmpfs ' /proc/mounts":                       "1",
			"head -c 32m /dev/zero 2>/dev/null > /memory/big || echo full": "full",
		} {
			if got := strings.TrimSpace(e.exec("p", "other", command)); got != want {
				e.t.Errorf("%s: %q, want %q", command, got, want)
			}
		}
	})
}

// TestEmptyDirLimit: a pod that fills its directory beyond the limit is evicted; one that
// deletes what it writes is not, however much that is in all.
func TestEmptyDirLimit(t *testing.T) {
	onHulls(t, func(e *env) {
		for name, command := range map[string]string{
			"p":    "head -c 20m /dev/zero > /disk/file; sync; sleep 3600",
			"tidy": "while :; do head -c 6m /dev/zero > /disk/file; sync; rm /disk/file; sync; echo written; sleep 0.2; done",
		} {
			e.pod(name, `
volumes: [{name: disk, emptyDir: {sizeLimit: 12Mi}}, {name: other, emptyDir: {}}]
containers:
  - name: app
    image: BUSYBOX
    command: [sh, -c, "head -c 20m /dev/zero > /other/file; `+command+`"]
    volumeMounts: [{name: disk, mountPath: /disk}, {name: other, mountPath: /other}]
`)
		}
		if p := e.ended("p"); p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, "disk") {
			e.t.Errorf("it ended because of %s: %s", p.Status.Reason, p.Status.Message)
		}
		e.eventually("the other has written more than its limit", func() error {
			if n := strings.Count(e.log("tidy", "app"), "written"); n < 10 {
				return fmt.Errorf("it has written %d times", n)
			}
			return nil
		})
		time.Sleep(35 * time.Second) // the kubelet measures every ten to twenty, and looks every ten
		if p := e.get("tidy"); p.Status.Phase != corev1.PodRunning {
			e.t.Errorf("the other is %s: %s", p.Status.Phase, p.Status.Message)
		}
	})
}

// TestHostPath in its types, read-only and by subPath.
func TestHostPath(t *testing.T) {
	onHulls(t, func(e *env) {
		dir := "/var/lib/e2e-" + e.ns
		e.ok(os.MkdirAll(dir, 0o755))
		e.ok(os.WriteFile(filepath.Join(dir, "file"), []byte("host\n"), 0o640))
		e.pod("p", `
volumes:
  - {name: any, hostPath: {path: /var/lib/e2e-NAMESPACE, type: Directory}}
  - {name: dir, hostPath: {path: /var/lib/e2e-NAMESPACE/made, type: DirectoryOrCreate}}
  - {name: file, hostPath: {path: /var/lib/e2e-NAMESPACE/file, type: File}}
  - {name: new, hostPath: {path: /var/lib/e2e-NAMESPACE/new, type: FileOrCreate}}
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    volumeMounts:
      - {name: any, mountPath: /any, readOnly: true}
      - {name: dir, mountPath: /dir}
      - {name: dir, mountPath: /sub, subPath: deep}
      - {name: file, mountPath: /etc/file}
      - {name: new, mountPath: /new}
`)
		e.ready("p")
		for command, want := range map[string]string{
			"cat /etc/file /any/file":                             "host\nhost",
			"stat -c %a:%u /etc/file":                             "640:0",
			"touch /any/x 2>/dev/null || echo read-only":          "read-only",
			"echo sub > /sub/f; cat /dir/deep/f /any/made/deep/f": "sub\nsub",
			"echo new > /new; cat /any/new":                       "new",
		} {
			if got := strings.TrimSpace(e.exec("p", "app", command)); got != want {
				e.t.Errorf("%s: %q, want %q", command, got, want)
			}
		}
		data, err := os.ReadFile(filepath.Join(dir, "made/deep/f"))
		if err != nil || string(data) != "sub\n" {
			e.t.Errorf("the host reads %q, %v", data, err)
		}
		e.pod("wrong", `
volumes: [{name: v, hostPath: {path: /var/lib/e2e-NAMESPACE/file, type: Directory}}]
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
`)
		e.event("wrong", "FailedMount", "hostPath type check failed")
	})
}

// TestHostPathSpecial: sockets and devices of the node, of which a virtual machine says that it
// cannot have them.
func TestHostPathSpecial(t *testing.T) {
	onHulls(t, func(e *env) {
		dir := "/var/lib/e2e-" + e.ns
		e.ok(os.MkdirAll(dir, 0o755))
		l, err := net.Listen("unix", dir+"/socket")
		e.ok(err)
		e.t.Cleanup(func() { l.Close() })
		e.ok(unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		e.ok(unix.Mknod(dir+"/block", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))))
		for _, c := range []special{
			{"socket", "Socket", "test -S /v", "is a socket of the host"},
			{"null", "CharDevice", "echo x > /v && test -c /v", "is a device of the host"},
			{"block", "BlockDevice", "test -b /v", "is a device of the host"},
		} {
			e.part(c.name, func(e *env) { e.hasSpecial(c) })
		}
	})
}

// special is a file of the node's that is no plain one: its type as a hostPath, a command that
// succeeds in a container that has it at /v, and why a machine does not get it.
type special struct{ name, kind, test, refusal string }

func (e *env) hasSpecial(s special) {
	e.pod(s.name, fmt.Sprintf(`
volumes: [{name: v, hostPath: {path: /var/lib/e2e-NAMESPACE/%s, type: %s}}]
containers: [{name: app, image: BUSYBOX, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}]
`, s.name, s.kind))
	if e.hull == virtual {
		e.event(s.name, "Failed", s.refusal)
		return
	}
	e.ready(s.name)
	e.exec(s.name, "app", s.test)
}

// event waits for an event of a pod.
func (e *env) event(pod, reason, text string) {
	e.t.Helper()
	e.eventually(pod+" has event "+reason, func() error {
		list, err := e.Client.CoreV1().Events(e.ns).List(e.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var seen []string
		for _, ev := range list.Items {
			if ev.Reason == reason && strings.Contains(ev.Message, text) {
				return nil
			}
			seen = append(seen, ev.Reason+": "+ev.Message)
		}
		return fmt.Errorf("its events are %q", seen)
	})
}

// TestImageVolume: an image's files, read-only, beside the container's own image.
func TestImageVolume(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
volumes: [{name: image, image: {reference: AGNHOST, pullPolicy: IfNotPresent}}]
containers:
  - name: app
    image: BUSYBOX
    command: [sleep, "3600"]
    volumeMounts: [{name: image, mountPath: /image}, {name: image, mountPath: /sub, subPath: etc}]
`)
		e.ready("p")
		if got := e.exec("p", "app", "test -x /image/agnhost && test -e /sub/passwd && ! touch /image/x 2>/dev/null && echo good"); got != "good\n" {
			e.t.Errorf("the image is %q", got)
		}
	})
}
