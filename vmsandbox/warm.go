package vmsandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
)

// warmID names the container of a warm-up; no pod's container has such a name.
const warmID = "warm-up"

// program is what a warm-up runs: it ends at once.
const program = "/warm"

// exitProgram is a static program for x86-64 that exits with 0: an ELF header, one segment
// and three instructions.
func exitProgram() []byte {
	const base, headers = 0x400000, 64 + 56
	code := []byte{0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05} // xor edi, edi; mov eax, exit; syscall
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // a buffer takes everything
		}
	}
	// Type EXEC, machine x86-64, version, entry, program headers, no sections, flags, sizes.
	put(uint16(2), uint16(62), uint32(1), uint64(base+headers), uint64(64), uint64(0), uint32(0))
	put(uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0))
	size := uint64(headers + len(code))
	// LOAD, read and execute.
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096))
	b.Write(code)
	return b.Bytes()
}

// Warm lives a pod's life in a machine, before there is one: what is slow the first time,
// in the guest's kernel, its process 1 and an emulator's translated code, has been slow
// then. The image is a directory in the guest's memory; a template has no disk for the
// writable layer either.
func Warm(ctx context.Context, m *Machine) error {
	err := warmPod(ctx, m.Guest)
	if err == nil {
		err = warmContainer(ctx, m)
	}
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	return nil
}

// warmPod introduces the guest to a pod that nobody has, in networks for documentation (RFC
// 5737, RFC 3849), and takes the network away again. The rest is replaced by the real pod's.
func warmPod(ctx context.Context, g agent.Guest) error {
	c := &sandbox.Config{ID: warmID, Hostname: warmID}
	identity, err := newIdentity(c)
	if err != nil {
		return err
	}
	if err := g.Identify(ctx, identity); err != nil {
		return err
	}
	if err := g.Sysctl(ctx, sysctls(c)); err != nil {
		return err
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	n := agent.Network{
		Name: cni.Interface, MAC: "52:54:00:00:00:02", MTU: 1450,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		Routes: []agent.Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: v4},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: v6},
		},
	}
	if err := g.Connect(ctx, n); err != nil {
		return err
	}
	return g.Connect(ctx, agent.Network{Name: n.Name, MAC: "52:54:00:00:00:01", MTU: 1500})
}

func warmContainer(ctx context.Context, m *Machine) error {
	own := path.Join(agent.DirVolumes, warmID)
	lower, upper := path.Join(own, "lower"), path.Join(own, "layer")
	if slices.Contains(m.Mounted, "rw0") {
		upper = path.Join(agent.DirDisks, "rw0", warmID)
	}
	files := append(directories(own, lower), warmDirs(upper)...)
	files = append(files, agent.File{Path: lower + program, Mode: unix.S_IFREG | 0o755, Content: exitProgram()})
	if err := m.Guest.Put(ctx, files); err != nil {
		return err
	}
	info, err := m.Guest.Hello(ctx)
	if err != nil {
		return err
	}
	request, beside, err := warmRequest(info, lower, upper)
	if err == nil {
		err = m.Guest.Put(ctx, beside)
	}
	if err == nil {
		err = runOnce(ctx, m.Monitor, request)
	}
	if err == nil {
		_, err = m.Guest.Stat(ctx)
	}
	if err == nil {
		err = m.Guest.Remove(ctx, []string{upper, own, bundle(warmID), path.Join(agent.DirLogs, warmID)})
	}
	return err
}

// warmDirs are the directories of the container, with its writable layer at upper.
func warmDirs(upper string) []agent.File {
	return directories(upper, path.Join(upper, "upper"), path.Join(upper, "work"), bundle(warmID))
}

func directories(names ...string) (files []agent.File) {
	for _, name := range names {
		files = append(files, agent.File{Path: name, Mode: unix.S_IFDIR | 0o755})
	}
	return files
}

// warmRequest is a container like any other, with the default seccomp profile and a log,
// and the file that its bundle has beside.
func warmRequest(info agent.Info, lower, upper string) (r monitor.CreateRequest, beside []agent.File, err error) {
	profile, err := spec.DefaultSeccomp(spec.DefaultCapabilities())
	if err != nil {
		return r, nil, err
	}
	c := runtime.Config{
		ID: warmID, Args: []string{program}, Cwd: "/", PID: runtime.NamespaceContainer, Seccomp: profile, NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{Bounding: spec.DefaultCapabilities(), Effective: spec.DefaultCapabilities(), Permitted: spec.DefaultCapabilities()},
	}
	s, err := spec.Build(c, spec.Place{
		Rootfs: rootfsDir, CgroupsPath: path.Join(agent.PodCgroup, warmID), CgroupV2: true, HostCapabilities: info.Capabilities,
	})
	if err == nil {
		beside, err = takeFilter(&seccomp.Cache{}, s, bundle(warmID))
	}
	if err != nil {
		return r, nil, err
	}
	return monitor.CreateRequest{
		ID: warmID, Sandbox: warmID, Bundle: bundle(warmID), Spec: s, Cgroup: path.Join(agent.PodCgroup, warmID),
		LogPath: path.Join(agent.DirLogs, warmID),
		Rootfs: monitor.Overlay{
			Target: rootfsDir, Lower: []string{lower}, Upper: path.Join(upper, "upper"), Work: path.Join(upper, "work"),
			Options: []string{overlaySource},
		},
	}, beside, nil
}

func runOnce(ctx context.Context, m GuestMonitor, r monitor.CreateRequest) error {
	if _, err := m.Create(ctx, r); err != nil {
		return err
	}
	if _, err := m.Start(ctx, r.ID); err != nil {
		return err
	}
	if _, err := m.Wait(ctx, r.ID); err != nil {
		return err
	}
	return m.Delete(ctx, r.ID)
}
