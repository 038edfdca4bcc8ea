package executor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
)

var mappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}

// inUserNS puts the container into a user namespace. The image stays root's: its files
// are mapped.
func (b *box) inUserNS() {
	b.place.UIDMappings, b.place.GIDMappings = mappings, mappings
	for _, dir := range []string{"upper", "work"} {
		must(b.t, os.Chown(filepath.Join(b.bundle, dir), 100000, 100000))
	}
	for _, dir := range []string{b.bundle, b.req.Bundle} {
		must(b.t, os.Chmod(dir, 0o711))
	}
}

// hold makes a process that keeps namespaces, like that of a pod.
func hold(t *testing.T, types ...specs.LinuxNamespaceType) (pid int, path func(specs.LinuxNamespaceType) string) {
	t.Helper()
	id := fmt.Sprintf("hold%d", containers.Add(1))
	pid, err := node.client.Hold(t.Context(), monitor.HoldRequest{ID: id, Namespaces: types, UIDMappings: mappings, GIDMappings: mappings})
	must(t, err)
	t.Cleanup(func() { must(t, node.client.Release(context.Background(), id)) })
	names := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.UserNamespace: "user", specs.IPCNamespace: "ipc",
		specs.UTSNamespace: "uts", specs.PIDNamespace: "pid"}
	return pid, func(n specs.LinuxNamespaceType) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, names[n]) }
}

func checkUserNS(t *testing.T, r report) {
	t.Helper()
	if own, _ := os.Readlink("/proc/self/ns/user"); r.Namespaces["user"] == own {
		t.Error("no user namespace")
	}
	if r.UID != 0 || r.Status["CapEff"] != "00000000a80425fb" {
		t.Errorf("user %d, capabilities %s", r.UID, r.Status["CapEff"])
	}
	if !strings.HasPrefix(r.Mounts["/sys"], "ro,nosuid,nodev,noexec,relatime sysfs") || !strings.HasPrefix(r.Mounts["/proc"], "rw,nosuid,nodev,noexec,relatime proc") {
		t.Errorf("mounts %v", r.Mounts)
	}
}

var tries = []string{"try", "owner=/etc/passwd", "owner=/", "owner=/dev", "owner=/made/here", "owner=/dev/null", "write=/dev/null", "read=/dev/urandom",
	"write=/etc/new", "owner=/etc/new", "owner=/proc/1"}

const wantTries = "owner=/etc/passwd: 0:0\nowner=/: 0:0\nowner=/dev: 0:0\nowner=/made/here: 0:0\nowner=/dev/null: 65534:65534\nwrite=/dev/null: ok\nread=/dev/urandom: ok\n" +
	"write=/etc/new: ok\nowner=/etc/new: 0:0\nowner=/proc/1: 0:0\n"

func TestNewUserNamespace(t *testing.T) {
	b := newBox(t)
	b.inUserNS()
	// Without a path there is none to map the image into: it is the mapped root's.
	chownTree(t, b.lower)
	checkUserNS(t, b.report())

	b = newBox(t, tries...)
	b.inUserNS()
	chownTree(t, b.lower)
	b.config.Cwd = "/made/here"
	if out, exit := b.run(); !strings.HasPrefix(out, wantTries) {
		t.Errorf("%s%+v", out, exit)
	}
}

func chownTree(t *testing.T, dir string) {
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, 100000, 100000)
	}))
}

func TestJoinedUserNamespace(t *testing.T) {
	types := []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
	_, path := hold(t, types...)
	prepare := func(args ...string) *box {
		b := newBox(t, args...)
		b.inUserNS()
		b.place.Namespaces = nil
		for _, n := range types {
			b.place.Namespaces = append(b.place.Namespaces, specs.LinuxNamespace{Type: n, Path: path(n)})
		}
		b.req.Rootfs.UserNS = path(specs.UserNamespace)
		return b
	}
	r := prepare().report()
	checkUserNS(t, r)
	for n, file := range map[specs.LinuxNamespaceType]string{specs.UserNamespace: "user", specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"} {
		if want, _ := os.Readlink(path(n)); r.Namespaces[file] != want {
			t.Errorf("namespace %s is %s, not %s", n, r.Namespaces[file], want)
		}
	}
	if r.Pid != 1 {
		t.Errorf("process %d", r.Pid)
	}
	b := prepare(tries...)
	b.config.Cwd = "/made/here"
	if out, exit := b.run(); !strings.HasPrefix(out, wantTries) {
		t.Errorf("%s%+v", out, exit)
	}

	b = prepare("try", "owner=/vol/file", "write=/vol/below/new", "write=/ro/new", "list=/ro")
	vol := b.volume("vol")
	must(t, os.Chown(filepath.Join(vol, "file"), 100000, 100001))
	must(t, os.Chmod(filepath.Join(vol, "below"), 0o777))
	must(t, unix.Mount(vol, vol, "", unix.MS_BIND|unix.MS_REC, ""))
	defer func() { must(t, unix.Unmount(vol, unix.MNT_DETACH)) }()
	must(t, unix.Mount("", vol, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NODEV, ""))
	b.config.Mounts = []runtime.Mount{{Source: vol, Destination: "/vol"}, {Source: vol, Destination: "/ro", Readonly: true}}
	if out, exit := b.run(); out != "owner=/vol/file: 0:1\nwrite=/vol/below/new: ok\nwrite=/ro/new: open /ro/new: read-only file system\nlist=/ro: 2\n" {
		t.Errorf("%s%+v", out, exit)
	}

	b = prepare("sleep")
	b.start()
	out, exit, err := b.exec(nil, tries...)
	if err != nil || exit.Code != 0 || !strings.HasPrefix(strings.Replace(out, "owner=/made/here: no such file or directory", "owner=/made/here: 0:0", 1), wantTries) {
		t.Errorf("exec: %s%+v, %v", out, exit, err)
	}

	b = prepare()
	b.config.Terminal, b.req.Terminal = true, true
	if out, exit := b.run(); !strings.Contains(out, `"Terminal":true`) || exit.Code != 0 {
		t.Errorf("with a terminal: %q %+v", out, exit)
	}
}

func TestSharedPIDNamespace(t *testing.T) {
	_, path := hold(t, specs.PIDNamespace)
	b := newBox(t)
	b.place.Namespaces = append(b.place.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: path(specs.PIDNamespace)})
	b.config.PID = runtime.NamespacePod
	r := b.report()
	if want, _ := os.Readlink(path(specs.PIDNamespace)); r.Pid == 1 || r.Namespaces["pid"] != want || r.Session != r.Pid {
		t.Errorf("process %d of session %d in %s, want %s", r.Pid, r.Session, r.Namespaces["pid"], want)
	}
}

func TestSharedPIDAndUserNamespace(t *testing.T) {
	types := []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace}
	_, path := hold(t, types...)
	b := newBox(t)
	b.inUserNS()
	b.place.Namespaces = nil
	for _, n := range types {
		b.place.Namespaces = append(b.place.Namespaces, specs.LinuxNamespace{Type: n, Path: path(n)})
	}
	b.req.Rootfs.UserNS = path(specs.UserNamespace)
	b.config.PID = runtime.NamespacePod
	r := b.report()
	checkUserNS(t, r)
	if r.Pid == 1 {
		t.Errorf("process %d", r.Pid)
	}
}

func TestHostNamespaces(t *testing.T) {
	b := newBox(t)
	b.place.Namespaces = nil
	b.config.PID = runtime.NamespaceNode
	r := b.report()
	for _, n := range []string{"net", "ipc", "uts", "pid", "user"} {
		if own, _ := os.Readlink("/proc/self/ns/" + n); r.Namespaces[n] != own {
			t.Errorf("namespace %s is %s, not ours, %s", n, r.Namespaces[n], own)
		}
	}
}
