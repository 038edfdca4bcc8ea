package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// podMaps are the mappings of pods with user namespaces in these tests.
var podMaps = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}

// heldPods are the holders that a pod may have.
func heldPods() map[string]HoldRequest {
	all := []specs.LinuxNamespaceType{specs.UserNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
	few := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 1000}} // no 65534
	return map[string]HoldRequest{
		"plain":          {ID: "pod", Namespaces: []specs.LinuxNamespaceType{specs.PIDNamespace}},
		"user namespace": {ID: "pod", Namespaces: all, UIDMappings: podMaps, GIDMappings: podMaps},
		"few ids":        {ID: "pod", Namespaces: all, UIDMappings: few, GIDMappings: few},
	}
}

// status reads the lines of /proc/PID/status.
func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		lines[key] = strings.Join(strings.Fields(value), " ")
	}
	return lines
}

// TestPodInitIsConfined looks at every kind of holder from the host, as soon as Hold
// has answered.
func TestPodInitIsConfined(t *testing.T) {
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	for name, request := range heldPods() {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, rt)
			pid, err := n.client.Hold(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			defer n.client.Release(t.Context(), request.ID)
			owner := map[string]string{"plain": "65534", "user namespace": "265534", "few ids": "200000"}[name]
			got := statusOf(t, pid)
			for key, want := range map[string]string{
				"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
				"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Threads": "1",
				"Uid": strings.TrimSuffix(strings.Repeat(owner+" ", 4), " "),
				"Gid": strings.TrimSuffix(strings.Repeat(owner+" ", 4), " "), "Groups": "",
			} {
				if got[key] != want {
					t.Errorf("%s = %q, want %q", key, got[key], want)
				}
			}
			checkHolderFiles(t, pid)
			for _, ns := range []string{"mnt", "net", "ipc", "uts", "cgroup", "pid"} {
				own, _ := os.Readlink("/proc/self/ns/" + ns)
				theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
				if err != nil || theirs == own {
					t.Errorf("%s namespace = %q, %v: the host's", ns, theirs, err)
				}
			}
			if _, pss := memory(t, pid); pss > 1024 {
				t.Errorf("PSS %d KiB, want at most 1 MiB", pss)
			}
		})
	}
}

// checkHolderFiles looks at what a holder has of the host's files.
func checkHolderFiles(t *testing.T, pid int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	table, err := os.ReadFile(dir + "mountinfo")
	if lines := strings.Count(string(table), "\n"); err != nil || lines != 1 {
		t.Fatalf("it has %d mounts, %v, want an empty root alone", lines, err)
	}
	for _, option := range []string{"ro", "nosuid", "nodev", "noexec"} {
		if !strings.Contains(strings.Fields(string(table))[5]+",", option+",") {
			t.Errorf("its root is not %s: %s", option, table)
		}
	}
	if entries, err := os.ReadDir(dir + "root"); err != nil || len(entries) != 0 {
		t.Errorf("%d files in its root, %v", len(entries), err)
	}
	if files, err := os.ReadDir(dir + "fd"); err != nil || len(files) != 0 {
		t.Errorf("%d open files, %v", len(files), err)
	}
	if b, err := os.ReadFile(dir + "environ"); err != nil || len(b) != 0 {
		t.Errorf("environment = %q, %v", b, err)
	}
	if cwd, err := os.Readlink(dir + "cwd"); err != nil || cwd != "/" {
		t.Errorf("working directory = %q, %v", cwd, err)
	}
	if owner, err := readOwner(dir + "environ"); err != nil || owner != 0 {
		t.Errorf("its files in /proc belong to %d, %v: it is dumpable", owner, err)
	}
	exe, err := os.Readlink(dir + "exe")
	if err != nil || !strings.HasPrefix(exe, "/memfd:") {
		t.Fatalf("its program is %q, %v", exe, err)
	}
	fd, err := unix.Open(dir+"exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_SEAL | unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK; err != nil || seals&want != want {
		t.Errorf("seals of its program = %#x, %v", seals, err)
	}
}

// TestPtraceDoesNotLeadOut spies from a container with CAP_SYS_PTRACE and without
// seccomp that shares the PID namespace.
func TestPtraceDoesNotLeadOut(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		for _, name := range []string{"plain", "user namespace"} {
			t.Run(name, func(t *testing.T) {
				n := newNode(t, rt)
				pid, err := n.client.Hold(t.Context(), heldPods()[name])
				if err != nil {
					t.Fatal(err)
				}
				defer n.client.Release(t.Context(), "pod")
				t.Cleanup(func() { os.Remove("/spied") })
				req := n.run([]string{"spy"}, func(s *specs.Spec, r *CreateRequest) { shareWith(pid, name != "plain", s, r) })
				n.wait(req.ID)
				checkSpied(t, n.text(req.LogPath, "stdout"), name != "plain")
			})
		}
	})
}

// shareWith puts a container into a holder's namespaces, with the capabilities that
// lead into other processes.
func shareWith(pid int, userNS bool, s *specs.Spec, r *CreateRequest) {
	caps := []string{"CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_CHROOT"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	r.KillAll = true
	ns := "/proc/" + strconv.Itoa(pid) + "/ns/"
	s.Linux.Namespaces[0].Path = ns + "pid"
	if !userNS {
		return
	}
	s.Linux.UIDMappings, s.Linux.GIDMappings = podMaps, podMaps
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: ns + "user"}, {Type: specs.PIDNamespace, Path: ns + "pid"}, {Type: specs.MountNamespace},
		{Type: specs.IPCNamespace, Path: ns + "ipc"}, {Type: specs.NetworkNamespace, Path: ns + "net"}, {Type: specs.UTSNamespace, Path: ns + "uts"}}
	r.Rootfs.UserNS = ns + "user"
	for _, d := range []string{r.Rootfs.Upper, r.Rootfs.Work} {
		os.Chown(d, 200000, 200000)
	}
	for dir := r.Bundle; dir != "/" && dir != "/tmp"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
}

func checkSpied(t *testing.T, text string, userNS bool) {
	t.Helper()
	spied := make(map[string]string)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		spied[key] = value
	}
	want := map[string]string{"root": "0", "write root": "error", "write exe": "error", "environ": "0", "fd": "0"}
	if userNS { // its CAP_SYS_PTRACE is not good for the host's program
		want = map[string]string{"root": "error", "write root": "error", "write exe": "error", "environ": "error", "fd": "error"}
	}
	for key, value := range want {
		if spied[key] != value {
			t.Errorf("%s: %q, want %q", key, spied[key], value)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Stat(programs.monitor, &st); err != nil {
		t.Fatal(err)
	}
	if host := fmt.Sprint(st.Dev, ":", st.Ino); spied["exe"] == host || spied["exe"] == "" {
		t.Errorf("exe is %q, the monitor's is %q", spied["exe"], host)
	}
	for _, ns := range []string{"mnt", "net", "ipc", "uts"} {
		if own, _ := os.Readlink("/proc/self/ns/" + ns); spied[ns] == own || spied[ns] == "" {
			t.Errorf("%s namespace is %q, the host's is %q", ns, spied[ns], own)
		}
	}
	if _, err := os.Stat("/spied"); err == nil {
		t.Error("the container wrote into the host's root")
	}
}

// TestPodInitReapsAndStays: orphans vanish, and no signal from inside ends it.
func TestPodInitReapsAndStays(t *testing.T) {
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	pid, err := n.client.Hold(t.Context(), heldPods()["plain"])
	if err != nil {
		t.Fatal(err)
	}
	defer n.client.Release(t.Context(), "pod")
	script := "kill -TERM 1; kill -SEGV 1; kill -KILL 1; (sleep 0.05 & exit 0)"
	if out, err := exec.Command("nsenter", "--pid=/proc/"+strconv.Itoa(pid)+"/ns/pid", "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	children := fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)
	n.eventually("no child is left", func() bool {
		b, err := os.ReadFile(children)
		return err == nil && len(b) == 0
	})
	if st, err := readProc(pid); err != nil || st.dead() {
		t.Errorf("it is dead: %v", err)
	}
}
