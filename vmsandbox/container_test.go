package vmsandbox

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

func TestImageSlots(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	var made []runtime.Container
	for _, image := range []string{"a", "b", "c", "d", "e", "a"} {
		made = append(made, started(t, p, containerConfig(image, "base")))
	}
	config := containerConfig("f", "base")
	for _, image := range []string{"g", "h"} {
		config.Mounts = append(config.Mounts, runtime.Mount{Destination: "/" + image, Image: []digest.Digest{digest.FromString(image)}})
	}
	_, err := p.NewContainer(t.Context(), config)
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "docs/limitations.md") {
		t.Errorf("eight images in six slots: %v", err)
	}
	for _, i := range []int{1, 5} { // the image of the last one is in use once more
		if err := made[i].Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	config.Mounts = config.Mounts[:1]
	last := started(t, p, config)
	r := machineOf(w, p).monitor.containers[last.(*container).id].request
	if r.Rootfs.Lower[0] != "/cricket/disks/ro5" || !strings.HasPrefix(r.Rootfs.Upper, "/cricket/disks/rw") || r.Overlays[0].Lower[0] != "/cricket/disks/ro1" {
		t.Errorf("rootfs = %+v, overlays = %+v", r.Rootfs, r.Overlays)
	}
	if !w.has("clear ro1") || w.has("clear ro0") {
		t.Errorf("slots were cleared wrongly: %q", w.calls)
	}
}

// A slot is not used again as long as there are others, if nobody knows what the guest sees
// there.
func TestDoubtfulSlots(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	for _, image := range []string{"a", "b", "c", "d", "e", "f"} {
		c := started(t, p, containerConfig(image))
		if err := c.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.failing = "mount erofs /cricket/disks/ro0"
	if _, err := p.NewContainer(t.Context(), containerConfig("g")); !errors.Is(err, errBroken) {
		t.Errorf("a mount that fails: %v", err)
	}
	w.failing = ""
	c := started(t, p, containerConfig("g"))
	if got := machineOf(w, p).monitor.containers[c.(*container).id].request.Rootfs.Lower[0]; got != "/cricket/disks/ro1" {
		t.Errorf("the image is in %s", got)
	}
}

// When attempts that failed have all slots, the next one empties one of them.
func TestFailedAttemptsLeaveSlots(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	slots, _ := vmm.Slots()
	for _, slot := range slots {
		w.failing = "set " + slot + " 1"
		if _, err := p.NewContainer(t.Context(), containerConfig("a")); !errors.Is(err, errBroken) {
			t.Errorf("slot %s: %v", slot, err)
		}
	}
	w.failing = "clear ro0"
	for range 2 { // a slot that cannot be emptied is tried again
		if _, err := p.NewContainer(t.Context(), containerConfig("a")); !errors.Is(err, errBroken) {
			t.Error(err)
		}
	}
	w.failing, w.calls = "", nil
	c := started(t, p, containerConfig("a"))
	if got := lowerOf(w, p, c); got != "/cricket/disks/ro0" {
		t.Errorf("the image is in %s", got)
	}
	var order []int
	for _, call := range []string{"unmount /cricket/disks/ro0", "clear ro0", "set ro0 1", "mount erofs /cricket/disks/ro0"} {
		order = append(order, slices.Index(w.calls, call))
	}
	if order[0] < 0 || !slices.IsSorted(order) {
		t.Errorf("calls = %q", w.calls)
	}
	if key := p.snapshot().Images["ro0"]; strings.HasPrefix(key, attempt) {
		t.Errorf("slot has %q", key)
	}
}

func TestWritableSlotsAreSharedLast(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	var slots []string
	for range 4 {
		slots = append(slots, started(t, p, containerConfig("a")).(*container).record().Slot)
	}
	if !slices.Equal(slots, []string{"rw0", "rw1", "rw2", "rw0"}) {
		t.Errorf("slots = %v", slots)
	}
	if w.has("take rw0") || !w.has("take rw1") || !w.has("mount ext4 /cricket/disks/rw2") {
		t.Errorf("calls = %q", w.calls)
	}
	usage, err := p.container(mustIDs(t, p)[0]).DiskUsage(t.Context())
	if err != nil || usage.At.IsZero() {
		t.Errorf("usage = %+v, %v", usage, err)
	}
}

// A daemon that was killed when it had filled a slot, and had not noted that yet, leaves a
// disk there that the guest may have mounted: the next one takes both away.
func TestSlotFilledWithoutNote(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	started(t, p, containerConfig("a"))
	if err := machineOf(w, p).SetDisk(t.Context(), "rw1", vmm.Disk{Files: []string{"/disks/rw1"}}); err != nil {
		t.Fatal(err)
	}
	next, err := w.driver().Attach(t.Context(), p.Record())
	if err != nil {
		t.Fatal(err)
	}
	w.calls = nil
	second := started(t, next.(*pod), containerConfig("a"))
	if slot := second.(*container).record().Slot; slot != "rw1" {
		t.Errorf("the writable layer is in %s", slot)
	}
	var order []int
	for _, call := range []string{"unmount /cricket/disks/rw1", "clear rw1", "take rw1", "set rw1 1", "mount ext4 /cricket/disks/rw1"} {
		order = append(order, slices.Index(w.calls, call))
	}
	if order[0] < 0 || !slices.IsSorted(order) {
		t.Errorf("calls = %q", w.calls)
	}
}

func mustIDs(t *testing.T, p *pod) []string {
	t.Helper()
	ids, err := p.containerIDs()
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestMemoryGrowsWithLimits(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	limited := func(mib int64) runtime.Config {
		c := containerConfig("a")
		c.Resources = &runtime.Resources{MemoryLimit: mib << 20}
		return c
	}
	started(t, p, limited(100))
	if w.has("online") {
		t.Error("memory was added though there is enough")
	}
	c := started(t, p, limited(200))
	if !w.has("add memory 128") {
		t.Errorf("calls = %q", w.calls)
	}
	if err := c.Update(t.Context(), &runtime.Resources{MemoryLimit: 4 << 30}); err != nil {
		t.Fatal(err)
	}
	if !w.has("add memory 640") {
		t.Errorf("not grown to what is possible: %q", w.calls)
	}
}

func TestNamespaces(t *testing.T) {
	w := newWorld(t)
	c := podConfig(t)
	c.PID = runtime.NamespacePod
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	c.UserNS = &sandbox.IDMappings{UIDs: ids, GIDs: ids}
	c.Sysctls = map[string]string{"kernel.shmmax": "1234567", "net.core.somaxconn": "77"}
	p := running(t, w, c)
	config := containerConfig("a")
	config.PID = runtime.NamespacePod
	made := started(t, p, config)
	m := machineOf(w, p).monitor
	want := []specs.LinuxNamespaceType{specs.UserNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace}
	if len(m.holds) != 1 || !slices.Equal(m.holds[0].Namespaces, want) || len(m.holds[0].UIDMappings) != 1 {
		t.Errorf("holds = %+v", m.holds)
	}
	r := m.containers[made.(*container).id].request
	if !slices.Contains(r.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/42/ns/pid"}) ||
		r.Rootfs.UserNS != "/proc/42/ns/user" || !r.KillAll || r.Spec.Linux.UIDMappings[0].HostID != 100000 {
		t.Errorf("request = %+v, namespaces %+v", r, r.Spec.Linux.Namespaces)
	}
	if s := r.Spec.Linux.Sysctl; len(s) != 1 || s["kernel.shmmax"] != "1234567" {
		t.Errorf("sysctls of the container = %v", s)
	}
	target := containerConfig("a")
	target.PID, target.PIDTarget = runtime.NamespaceTarget, made.(*container).id
	joined := started(t, p, target)
	r = m.containers[joined.(*container).id].request
	if !slices.Contains(r.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/proc/7/ns/pid"}) {
		t.Errorf("namespaces = %+v", r.Spec.Linux.Namespaces)
	}
	if s, err := joined.State(t.Context()); err != nil || s.Pid != 0 {
		t.Errorf("state shows a process of the guest: %+v, %v", s, err)
	}
}

// What an adjustment brings from the host is refused by name, but mounts, which become
// volumes, and what means the same in the guest.
func TestAdjustments(t *testing.T) {
	w := newWorld(t)
	p := running(t, w, podConfig(t))
	for field, adjust := range map[string]func(*specs.Spec){
		"hooks.createContainer: /bin/x": func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/x"}}} },
		"linux.devices: /dev/x":         func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"linux.netDevices: eth7":        func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth7": {}} },
		"linux.resources.devices": func(s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true})
		},
		"linux.resources.blockIO": func(s *specs.Spec) { s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{} },
		"linux.intelRdt":          func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"linux.memoryPolicy":      func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} },
		"linux.cgroupsPath":       func(s *specs.Spec) { s.Linux.CgroupsPath = "/x" },
		"linux.namespaces":        func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"linux.sysctl":            func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a": "b"} },
		"process.ioPriority":      func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} },
		"process.scheduler":       func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} },
	} {
		c := containerConfig("a")
		c.Adjust = func(s *specs.Spec) error { adjust(s); return nil }
		_, err := p.NewContainer(t.Context(), c)
		refused(t, err, field)
	}
	if len(w.volumes) > 0 {
		t.Errorf("volumes are left: %v", w.volumes)
	}
	c := containerConfig("a")
	c.Adjust = func(s *specs.Spec) error {
		s.Process.Env = append(s.Process.Env, "A=1")
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/lib/vendor", Type: "bind", Source: "/tmp", Options: []string{"rbind", "ro", "noexec"}},
			specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs"})
		return nil
	}
	made := started(t, p, c)
	s := machineOf(w, p).monitor.containers[made.(*container).id].request.Spec
	at := func(destination string) specs.Mount {
		return s.Mounts[slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == destination })]
	}
	lib := at("/lib/vendor")
	if lib.Source == "/tmp" || !slices.Contains(lib.Options, "ro") || !slices.Contains(lib.Options, "noexec") {
		t.Errorf("the mount is %+v", lib)
	}
	if at("/scratch").Type != "tmpfs" || !slices.Contains(s.Process.Env, "A=1") {
		t.Errorf("the specification is %+v", s)
	}
}
