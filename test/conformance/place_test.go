package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
)

// testSurroundings looks at what a container finds around it.
func testSurroundings(t *testing.T, h *Hull) {
	s := h.pod(t, func(c *sandbox.Config) {
		c.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "400", "kernel.shm_rmid_forced": "1"}
	})
	live := start(t, s, h.shell(t, "one", idle))
	wants(t, live, map[string]string{
		"hostname":             "the-pod",
		"cat /etc/hostname":    "the-pod",
		"cat /etc/resolv.conf": "search a b\nnameserver 10.0.0.1\noptions ndots:5",
		"id -u; id -g":         "0\n0",
		"echo $GREETING":       "hello",
		"echo $HOME":           "/root",
		"grep -q localhost /etc/hosts && touch /etc/hosts && echo yes": "yes",
		"pwd":              "/",
		"cat /proc/1/comm": "sh",
		"ls -d /proc/[0-9]* 2>/dev/null | wc -l | grep -q '^[1-9]$' && echo few":  "few",
		`grep ' / ' /proc/mounts | cut -d' ' -f1,3`:                               "overlay overlay",
		"echo x > /file && cat /file":                                             "x",
		"stat -f -c %T /dev/shm":                                                  "tmpfs",
		"touch /dev/shm/x /tmp/y && echo ok":                                      "ok",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start":                       "400",
		"cat /proc/sys/kernel/shm_rmid_forced":                                    "1",
		"echo 1 2>/dev/null > /proc/sys/kernel/shm_rmid_forced || echo read-only": "read-only",
		"wc -c < /proc/version":                                                   "0", // masked
		"grep CapEff /proc/self/status | cut -f2":                                 "00000000080404eb",
		"grep NoNewPrivs /proc/self/status | cut -f2":                             "0",
		"test -c /dev/null && echo x > /dev/null && test -c /dev/tty && test -L /dev/stdin && test -d /dev/pts && echo yes": "yes",
		"head -c 8 /dev/urandom | wc -c":                    "8",
		"test -d /sys/fs/cgroup && echo yes":                "yes",
		"mount -t tmpfs x /tmp 2>/dev/null || echo refused": "refused",
	})
}

func testUserNamespace(t *testing.T, h *Hull) {
	s := h.pod(t, func(c *sandbox.Config) { c.UserNS = mappings() })
	live := start(t, s, h.shell(t, "one", idle))
	wants(t, live, map[string]string{
		"id -u; id -g":                                       "0\n0",
		"tr -s ' ' < /proc/self/uid_map":                     "0 200000 65536",
		"tr -s ' ' < /proc/self/gid_map":                     "0 200000 65536",
		"stat -c %u:%g /bin/busybox":                         "0:0",
		"echo x > /file && stat -c %u:%g /file":              "0:0",
		"touch /own && chown 5:6 /own && stat -c %u:%g /own": "5:6",
		"stat -c %u:%g /etc/resolv.conf":                     "0:0",
		"hostname":                                           "the-pod",
		"touch /dev/shm/x && echo ok":                        "ok",
	})
}

// testIdentity is about who the process is and what it may do.
func testIdentity(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "user", "id -u; id -g; id -G; umask; grep NoNewPrivs /proc/self/status | cut -f2; grep Seccomp: /proc/self/status | cut -f2; pwd; mkdir /tmp/x && echo made; chmod 700 /tmp 2>/dev/null || echo not mine; mkdir /x 2>/dev/null || echo no")
	umask := uint32(0o027)
	c.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{2000, 3000}, Umask: &umask}
	c.NoNewPrivileges, c.Cwd = true, "/tmp"
	c.Capabilities = &specs.LinuxCapabilities{}
	c.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"chmod", "fchmodat", "fchmodat2"}, Action: specs.ActErrno}},
	}
	out, exit := h.run(t, s, c)
	want := "1000 2000 2000 3000 0027 1 2 /tmp made not mine no"
	if got := strings.Join(strings.Fields(strings.ReplaceAll(out, "stdout F ", "")), " "); got != want || exit.Code != 0 {
		t.Errorf("got %q %+v, want %q", got, exit, want)
	}

	c = h.shell(t, "readonly", "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo shm")
	c.ReadonlyRootfs = true
	if out, _ := h.run(t, s, c); out != "stdout F refused\nstdout F shm\n" {
		t.Errorf("read-only root: %q", out)
	}

	c = h.shell(t, "rlimits and privileges", "mount -t tmpfs x /tmp && echo mounted; grep -q 1 /proc/sys/kernel/shm_rmid_forced; echo 0 > /proc/sys/kernel/shm_rmid_forced && echo wrote; test -c /dev/kmsg && echo devices")
	c.Privileged = true
	c.MaskedPaths, c.ReadonlyPaths = nil, nil
	all := strings.Fields("CAP_SYS_ADMIN CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_NET_ADMIN CAP_MKNOD")
	c.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	if out, _ := h.run(t, s, c); out != "stdout F mounted\nstdout F wrote\nstdout F devices\n" {
		t.Errorf("privileged: %q", out)
	}
}

func testMounts(t *testing.T, h *Hull) {
	s := h.pod(t)
	dir := filepath.Join(h.Node.Paths.Dir, "volumes", id(t, "")[40:])
	for _, name := range []string{"rw", "ro", "below/deep"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("ro/file", "from the host", 0o644)
	write("single", "a file", 0o640)
	write("termination", "", 0o666)
	if err := os.Chown(filepath.Join(dir, "single"), 1234, 4321); err != nil {
		t.Fatal(err)
	}
	c := h.shell(t, "one", "echo bye > /dev/termination-log; "+idle)
	c.Mounts = []runtime.Mount{
		{Destination: "/rw", Source: dir + "/rw"},
		{Destination: "/ro", Source: dir + "/ro", Readonly: true},
		{Destination: "/etc/single", Source: dir + "/single", Readonly: true},
		{Destination: "/dev/termination-log", Source: dir + "/termination"},
		{Destination: "/below/it", Source: dir + "/below"},
		{Destination: "/image", Image: h.Node.Image, SubPath: "etc"},
	}
	live := start(t, s, c)
	wants(t, live, map[string]string{
		"cat /ro/file": "from the host",
		"touch /ro/x 2>/dev/null || echo refused":       "refused",
		"cat /etc/single; stat -c %u:%g:%a /etc/single": "a file1234:4321:640",
		"ls /below/it": "deep",
		"test -f /image/passwd && (touch /image/x 2>/dev/null || echo refused)": "refused",
	})
	for _, step := range [][2]string{ // each needs the one before
		{"echo x > /rw/file && chmod 751 /rw/file && chown 7:8 /rw/file && stat -c %u:%g:%a /rw/file", "7:8:751"},
		{"ln -s file /rw/link && readlink /rw/link && cat /rw/link", "file\nx"},
		{"mkdir /rw/dir && mv /rw/file /rw/dir/moved && cat /rw/link 2>/dev/null; cat /rw/dir/moved", "x"},
	} {
		wants(t, live, map[string]string{step[0]: step[1]})
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/rw/dir/moved", &st); err != nil || st.Uid != 7 || st.Gid != 8 || st.Mode&0o777 != 0o751 {
		t.Errorf("what the container wrote looks on the host like %+v, %v", st, err)
	}
	write("rw/later", "written later", 0o644)
	wants(t, live, map[string]string{"cat /rw/later": "written later"})
	kill(t, live, unix.SIGTERM)
	await(t, live)
	if text, err := os.ReadFile(dir + "/termination"); err != nil || string(text) != "bye\n" {
		t.Errorf("termination message: %q %v", text, err)
	}
}

func testShared(t *testing.T, h *Hull) {
	s := h.pod(t)
	one := start(t, s, h.shell(t, "one", "echo shared > /dev/shm/x; (while :; do echo answer | nc -l -p 8080; done) & "+idle))
	two := start(t, s, h.shell(t, "two", idle))
	wants(t, two, map[string]string{
		"cat /dev/shm/x": "shared",
		"for i in 1 2 3 4 5 6 7 8 9; do nc 127.0.0.1 8080 </dev/null && break; sleep 0.3; done": "answer",
	})
	output(t, one, "echo mine > /file")
	wants(t, two, map[string]string{"cat /file 2>/dev/null || echo none": "none"})
}

func testPIDNamespaces(t *testing.T, h *Hull) {
	s := h.pod(t, func(c *sandbox.Config) { c.PID = runtime.NamespacePod })
	c := h.shell(t, "one", "exec sleep 1111")
	c.PID = runtime.NamespacePod
	one := start(t, s, c)
	c = h.shell(t, "two", "exec sleep 2222")
	c.PID, c.PIDTarget = runtime.NamespaceTarget, id(t, "one")
	two := start(t, s, c)
	own := start(t, s, h.shell(t, "own", idle))
	const sleeping = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep [1-3][1-3]*' | sort"
	wants(t, two, map[string]string{sleeping: "sleep 1111\nsleep 2222"})
	wants(t, own, map[string]string{"cat /proc/1/comm": "sh"})
	// Background processes end with their container although the namespace goes on.
	output(t, one, "sleep 3333 >/dev/null 2>&1 </dev/null &")
	kill(t, one, unix.SIGKILL)
	await(t, one)
	eventually(t, func() bool { return output(t, two, sleeping) == "sleep 2222" })
}
