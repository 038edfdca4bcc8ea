package guest_test

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// TestGuest asks one machine for everything that agent.Guest has.
func TestGuest(t *testing.T) {
	image := t.TempDir()
	write(t, filepath.Join(image, "etc/release"), "an image\n")
	erofs, ext4 := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "disk")
	run(t, "mkfs.erofs", "--quiet", erofs, image)
	run(t, "truncate", "-s", "64M", ext4)
	run(t, "mke2fs", "-q", "-t", "ext4", ext4)
	volumes := t.TempDir()
	m := guesttest.Boot(t, guesttest.Config{Disks: map[string]string{"ro2": erofs, "rw1": ext4}, Volumes: volumes, Network: true})
	t.Logf("first answer after %s", m.Boot)

	t.Run("identify", func(t *testing.T) { testIdentify(t, m) })
	t.Run("files", func(t *testing.T) { testFiles(t, m) })
	t.Run("links", func(t *testing.T) { testLinks(t, m) })
	t.Run("image", func(t *testing.T) { testImage(t, m) })
	t.Run("disk", func(t *testing.T) { testDisk(t, m) })
	t.Run("shared", func(t *testing.T) { testShared(t, m, volumes) })
	t.Run("tmpfs", func(t *testing.T) { testTmpfs(t, m) })
	t.Run("connect", func(t *testing.T) { testConnect(t, m) })
	t.Run("sysctl", func(t *testing.T) { testSysctl(t, m) })
	t.Run("limit", func(t *testing.T) { testLimit(t, m) })
	t.Run("stat", func(t *testing.T) { testStat(t, m) })
	t.Run("sync", func(t *testing.T) {
		if err := m.Guest.Sync(t.Context(), true); err != nil {
			t.Error(err)
		}
	})
	t.Run("online", func(t *testing.T) { testOnline(t, m) })
}

// testOnline plugs in memory, and has containers use it.
func testOnline(t *testing.T, m *guesttest.Machine) {
	before := stat(t, m)
	guesttest.Command(t, m, `{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "m1", "size": 134217728}}`)
	guesttest.Command(t, m, `{"execute": "device_add", "arguments": {"driver": "pc-dimm", "id": "d1", "memdev": "m1"}}`)
	began := time.Now()
	if err := m.Guest.Online(t.Context(), 128<<20); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if err := m.Guest.Online(t.Context(), 256<<20); !errdefs.IsUnavailable(err) {
		t.Errorf("memory that is not there: %v", err)
	}
	again := time.Now()
	if err := m.Guest.Online(t.Context(), 128<<20); err != nil || time.Since(again) > 5*time.Second {
		t.Errorf("asked again after %s: %v", time.Since(again), err)
	}
	after := stat(t, m)
	if got := *after.Guest.Memory.Limit - *before.Guest.Memory.Limit; got != 128<<20 {
		t.Errorf("the guest has %d bytes more after %s", got, took)
	}
	if got := *after.Pod.Memory.Limit - *before.Pod.Memory.Limit; got != 128<<20 {
		t.Errorf("containers may use %d bytes more", got)
	}
	t.Logf("128 MiB more after %s", took)
}

func testFiles(t *testing.T, m *guesttest.Machine) {
	dir := agent.DirVolumes + "/files"
	files := []agent.File{
		{Path: dir, Mode: unix.S_IFDIR | 0o750, UID: 7, GID: 8},
		{Path: dir + "/deep/er/file", Mode: unix.S_IFREG | 0o4640, UID: 70000, GID: 5, Content: []byte("first, long")},
		{Path: dir + "/link", Mode: unix.S_IFLNK | 0o777, Content: []byte("deep/er")},
	}
	put(t, m, files...)
	put(t, m, files...) // again: it is what there is
	for _, want := range files[1:] {
		if got := get(t, m, want.Path); got.Mode != want.Mode || got.UID != want.UID || got.GID != want.GID || !bytes.Equal(got.Content, want.Content) {
			t.Errorf("put %+v, got %+v", want, got)
		}
	}
	put(t, m, agent.File{Path: dir + "/deep/er/file", Mode: unix.S_IFREG | 0o600, Content: []byte("short")})
	put(t, m, agent.File{Path: dir + "/link", Mode: unix.S_IFLNK, Content: []byte("elsewhere")})
	if got := get(t, m, dir+"/deep/er/file"); string(got.Content) != "short" {
		t.Errorf("content = %q", got.Content)
	}
	put(t, m, agent.File{Path: dir + "/deep/er/file", Mode: unix.S_IFREG | 0o600, Content: []byte("new"), Replace: true})
	if got := get(t, m, dir+"/deep/er/file"); string(got.Content) != "new" {
		t.Errorf("content = %q", got.Content)
	}
	if got := get(t, m, dir+"/link"); string(got.Content) != "elsewhere" {
		t.Errorf("target = %q", got.Content)
	}
	for range 2 {
		if err := m.Guest.Remove(t.Context(), []string{dir}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Guest.Get(t.Context(), dir+"/link"); !errdefs.IsNotFound(err) {
		t.Errorf("after remove: %v", err)
	}
}

// testLinks has a container replace what is on the way by symbolic links.
func testLinks(t *testing.T, m *guesttest.Machine) {
	dir := agent.DirVolumes + "/links"
	put(t, m, agent.File{Path: dir + "/out", Mode: unix.S_IFLNK, Content: []byte("/etc")},
		agent.File{Path: dir + "/in", Mode: unix.S_IFLNK, Content: []byte("../other")},
		agent.File{Path: agent.DirVolumes + "/other/secret", Mode: unix.S_IFREG | 0o600, Content: []byte("x")})
	for _, path := range []string{dir + "/out/passwd", dir + "/in/secret", dir + "/out", "/etc/passwd", agent.DirVolumes, agent.DirVolumes + "/../x", dir + "//x", "relative"} {
		err := m.Guest.Put(t.Context(), []agent.File{{Path: path, Mode: unix.S_IFREG | 0o600, Content: []byte("y")}})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("put %s: %v", path, err)
		}
	}
	if _, err := m.Guest.Get(t.Context(), dir+"/in/secret"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("get through a link: %v", err)
	}
	if err := m.Guest.Remove(t.Context(), []string{dir + "/in/secret"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("remove through a link: %v", err)
	}
	if err := m.Guest.Mount(t.Context(), agent.Mount{Target: dir + "/in", Source: "x", Type: "tmpfs"}); err == nil {
		t.Error("a file system is mounted through a link")
	}
	if err := m.Guest.Remove(t.Context(), []string{dir}); err != nil {
		t.Error(err)
	}
	if got := get(t, m, agent.DirVolumes+"/other/secret"); string(got.Content) != "x" {
		t.Errorf("the other volume has %q", got.Content)
	}
}

func testImage(t *testing.T, m *guesttest.Machine) {
	at := agent.DirDisks + "/ro2"
	began := time.Now()
	mount(t, m, agent.Mount{Slot: "ro2", Target: at, Type: "erofs", Options: []string{"ro"}})
	t.Logf("mounted after %s", time.Since(began))
	if got := get(t, m, at+"/etc/release"); string(got.Content) != "an image\n" {
		t.Errorf("content = %q", got.Content)
	}
	if err := m.Guest.Put(t.Context(), []agent.File{{Path: at + "/x", Mode: unix.S_IFREG | 0o600}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("write to an image: %v", err)
	}
	unmount(t, m, at)
	if _, err := m.Guest.Get(t.Context(), at+"/etc/release"); !errdefs.IsNotFound(err) {
		t.Errorf("after unmount: %v", err)
	}
	// An empty slot.
	if err := m.Guest.Mount(t.Context(), agent.Mount{Slot: "ro3", Target: at, Type: "erofs", Options: []string{"ro"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("mount an empty slot: %v", err)
	}
	if err := m.Guest.Mount(t.Context(), agent.Mount{Source: "/dev/vda", Target: at, Type: "btrfs"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("mount an unknown file system: %v", err)
	}
}

func testDisk(t *testing.T, m *guesttest.Machine) {
	at := agent.DirDisks + "/rw1"
	disk := agent.Mount{Slot: "rw1", Target: at, Type: "ext4", Options: []string{"nodev", "discard"}}
	mount(t, m, disk)
	before := stat(t, m).Disks["rw1"]
	put(t, m, agent.File{Path: at + "/file", Mode: unix.S_IFREG | 0o600, Content: make([]byte, 1<<20)})
	if err := m.Guest.Sync(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	after := stat(t, m).Disks["rw1"]
	if grown := after.Bytes - before.Bytes; grown < 1<<20 || grown > 2<<20 || after.Inodes != before.Inodes+1 {
		t.Errorf("a file of 1 MiB changed %+v to %+v", before, after)
	}
	unmount(t, m, at)
	if disks := stat(t, m).Disks; len(disks) != 0 {
		t.Errorf("disks = %+v", disks)
	}
	mount(t, m, disk)
	if got := get(t, m, at+"/file"); len(got.Content) != 1<<20 {
		t.Errorf("%d bytes", len(got.Content))
	}
	unmount(t, m, at)
}

func testShared(t *testing.T, m *guesttest.Machine, host string) {
	write(t, filepath.Join(host, "v/from-host"), "hello")
	if err := os.Chown(filepath.Join(host, "v/from-host"), 1234, 5678); err != nil {
		t.Fatal(err)
	}
	at := agent.DirShared
	mount(t, m, agent.Mount{Source: vmm.VolumesTag, Target: at + "/pod", Type: "9p", Options: []string{"msize=131072", "cache=none"}})
	got := get(t, m, at+"/pod/v/from-host")
	if string(got.Content) != "hello" || got.UID != 1234 || got.GID != 5678 {
		t.Errorf("the guest sees %+v", got)
	}
	put(t, m, agent.File{Path: at + "/pod/v/from-guest", Mode: unix.S_IFREG | 0o640, UID: 42, GID: 43, Content: []byte("hi")})
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(host, "v/from-guest"), &st); err != nil || st.Uid != 42 || st.Gid != 43 || st.Mode&0o777 != 0o640 {
		t.Errorf("the host sees %+v, %v", st, err)
	}
	unmount(t, m, at+"/pod")
}

func testTmpfs(t *testing.T, m *guesttest.Machine) {
	at := agent.DirVolumes + "/memory"
	mount(t, m, agent.Mount{Source: "tmpfs", Target: at, Type: "tmpfs", Options: []string{"nosuid", "size=1m", "mode=0700"}})
	put(t, m, agent.File{Path: at + "/small", Mode: unix.S_IFREG | 0o600, Content: make([]byte, 4096)})
	err := m.Guest.Put(t.Context(), []agent.File{{Path: at + "/large", Mode: unix.S_IFREG | 0o600, Content: make([]byte, 2<<20)}})
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("2 MiB on a volume of 1 MiB: %v", err)
	}
	unmount(t, m, at)
	unmount(t, m, at)
}

func testConnect(t *testing.T, m *guesttest.Machine) {
	n := agent.Network{
		Name: "eth0", MAC: "52:54:00:aa:bb:cc", MTU: 1450,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/32"), netip.MustParsePrefix("fec0::15/64")},
		Routes: []agent.Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.2.2"), Source: netip.MustParseAddr("10.0.2.15")},
			{Destination: netip.MustParsePrefix("10.0.2.2/32")}, // the way to the gateway comes after it
			{Destination: netip.MustParsePrefix("10.9.0.0/16"), Gateway: netip.MustParseAddr("169.254.1.1"), OnLink: true, Metric: 5, MTU: 1300},
			{Destination: netip.MustParsePrefix("::/0"), Gateway: netip.MustParseAddr("fec0::2")},
		},
		Neighbours: []agent.Neighbour{{IP: netip.MustParseAddr("169.254.1.1"), MAC: "ee:ee:ee:ee:ee:ee"}},
	}
	for range 2 {
		if err := m.Guest.Connect(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	connectElsewhere(t, m)
	if s := stat(t, m); len(s.Network) == 0 || s.Network[0].Name != "eth0" {
		t.Errorf("network = %+v", s.Network)
	}
	for name, bad := range map[string]func(*agent.Network){
		"MAC":   func(n *agent.Network) { n.MAC = "nonsense" },
		"MTU":   func(n *agent.Network) { n.MTU = 9 },
		"route": func(n *agent.Network) { n.Routes[0].Gateway = netip.MustParseAddr("192.0.2.1") },
	} {
		other := n
		other.Routes = slices.Clone(n.Routes)
		bad(&other)
		if err := m.Guest.Connect(t.Context(), other); !errdefs.IsInvalidArgument(err) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
}

// connectElsewhere: a machine that is connected once more has nothing of the network before.
// The gateway shows it: it can only be reached through an address that is there.
func connectElsewhere(t *testing.T, m *guesttest.Machine) {
	t.Helper()
	for _, n := range []agent.Network{
		{Name: "eth0", MAC: "52:54:00:aa:bb:cd", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}},
		{Name: "eth0", MAC: "52:54:00:aa:bb:ce", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}},
	} {
		if err := m.Guest.Connect(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for destination, gateway := range map[string]string{"203.0.113.0/24": "192.0.2.1", "2001:db8:1::/64": "2001:db8::1"} {
		n := agent.Network{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}, Routes: []agent.Route{
			{Destination: netip.MustParsePrefix(destination), Gateway: netip.MustParseAddr(gateway)},
		}}
		if err := m.Guest.Connect(t.Context(), n); err == nil {
			t.Errorf("gateway %s of a network before can be reached", gateway)
		}
	}
	if err := m.Guest.Connect(t.Context(), agent.Network{Name: "eth0"}); err != nil {
		t.Error(err)
	}
}

func testSysctl(t *testing.T, m *guesttest.Machine) {
	if err := m.Guest.Sysctl(t.Context(), map[string]string{"net.ipv4.ip_local_port_range": "20000 30000", "net.ipv4.conf.eth0.rp_filter": "0", "kernel.shm_rmid_forced": "1"}); err != nil {
		t.Error(err)
	}
	for name, value := range map[string]string{"net.ipv4.nothing": "1", "kernel.shm_rmid_forced": "many", "../../etc/passwd": "x", "net/../kernel/pid_max": "x", "": "1"} {
		if err := m.Guest.Sysctl(t.Context(), map[string]string{name: value}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("set %q: %v", name, err)
		}
	}
}

func testLimit(t *testing.T, m *guesttest.Machine) {
	limit, quota, shares, pids := int64(100<<20), int64(50000), uint64(512), int64(500)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota, Shares: &shares}, Pids: &specs.LinuxPids{Limit: &pids}}
	if err := m.Guest.Limit(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got := stat(t, m).Pod.Memory.Limit; got == nil || *got != 100<<20 {
		t.Errorf("limit = %v", got)
	}
	// More than there is: the kernel and process 1 keep theirs.
	limit = 1 << 40
	if err := m.Guest.Limit(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s := stat(t, m)
	if got := s.Pod.Memory.Limit; got == nil || *got > *s.Guest.Memory.Limit-32<<20 || *got < *s.Guest.Memory.Limit/2 {
		t.Errorf("limit = %v of %d", got, *s.Guest.Memory.Limit)
	}
}

func testStat(t *testing.T, m *guesttest.Machine) {
	s := stat(t, m)
	g := s.Guest
	if g.CPUNanos == nil || *g.CPUNanos < 1e8 || g.Pids == nil || *g.Pids < 10 || g.CPUPressure == nil || g.Memory.PageFaults == nil {
		t.Errorf("guest = %+v", g)
	}
	if *g.Memory.Usage < 20<<20 || *g.Memory.Usage > *g.Memory.Limit || *g.Memory.WorkingSet > *g.Memory.Usage {
		t.Errorf("memory = %d of %d used, %d working", *g.Memory.Usage, *g.Memory.Limit, *g.Memory.WorkingSet)
	}
	t.Logf("%d MiB used, %d MiB working set, %d MiB RSS of all programs", *g.Memory.Usage>>20, *g.Memory.WorkingSet>>20, *g.Memory.RSS>>20)
	if s.Pod.CPUNanos == nil || s.Pod.MemoryPressure == nil || s.Pod.IOPressure == nil || len(s.Containers) != 0 {
		t.Errorf("pod = %+v, containers = %+v", s.Pod, s.Containers)
	}
}

func put(t *testing.T, m *guesttest.Machine, files ...agent.File) {
	t.Helper()
	if err := m.Guest.Put(t.Context(), files); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, m *guesttest.Machine, path string) agent.File {
	t.Helper()
	f, err := m.Guest.Get(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mount(t *testing.T, m *guesttest.Machine, what agent.Mount) {
	t.Helper()
	if err := m.Guest.Mount(t.Context(), what); err != nil {
		t.Fatal(err)
	}
}

func unmount(t *testing.T, m *guesttest.Machine, target string) {
	t.Helper()
	if err := m.Guest.Unmount(t.Context(), target); err != nil {
		t.Fatal(err)
	}
}

func stat(t *testing.T, m *guesttest.Machine) agent.Stat {
	t.Helper()
	s, err := m.Guest.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
