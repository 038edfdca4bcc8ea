package guest

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

func TestParameterFile(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":            "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/7.rp_filter": "net/ipv4/conf/eth0.7/rp_filter",
		"net/ipv4/conf/eth0.7/rp_filter": "net/ipv4/conf/eth0.7/rp_filter",
		"kernel.shmmax":                  "kernel/shmmax",
	} {
		if got, err := parameterFile(name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"", ".", "../x", "/etc/passwd", "..//..//etc", "net/../../etc/passwd"} {
		if got, err := parameterFile(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is %q, %v", name, got, err)
		}
	}
}

func TestMountOptions(t *testing.T) {
	tests := []struct {
		mount agent.Mount
		flags uintptr
		data  string
	}{
		{agent.Mount{Type: "erofs", Options: []string{"ro", "dax=always"}}, unix.MS_RDONLY, "dax=always"},
		{agent.Mount{Type: "ext4", Options: []string{"rw", "nodev", "discard", "data=writeback"}}, unix.MS_NODEV, "discard,data=writeback"},
		{agent.Mount{Type: "tmpfs", Options: []string{"nosuid", "noexec", "size=1m"}}, unix.MS_NOSUID | unix.MS_NOEXEC, "size=1m"},
		{agent.Mount{Type: "9p", Options: []string{"msize=4096"}}, 0, "trans=virtio,version=9p2000.L,msize=4096"},
	}
	for _, test := range tests {
		flags, data, err := mountOptions(test.mount)
		if err != nil || flags != test.flags || data != test.data {
			t.Errorf("%+v: %#x, %q, %v", test.mount, flags, data, err)
		}
	}
	if _, _, err := mountOptions(agent.Mount{Type: "proc"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("proc: %v", err)
	}
}

func TestPodMemory(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct{ wanted, total, want uint64 }{
		{0, 512 * mib, 464 * mib},
		{100 * mib, 512 * mib, 100 * mib},
		{500 * mib, 512 * mib, 464 * mib},
		{0, 64 * mib, 32 * mib},
	} {
		if got := podMemory(test.wanted, test.total); got != test.want {
			t.Errorf("%d of %d MiB wanted: %d", test.wanted/mib, test.total/mib, got/mib)
		}
	}
}

func TestLimitFiles(t *testing.T) {
	limit, swap, all := int64(100), int64(150), int64(-1)
	quota, none, period, shares := int64(20000), int64(-1), uint64(100000), uint64(1024)
	pids, anyPids := int64(7), int64(-1)
	tests := []struct {
		resources specs.LinuxResources
		want      []limitFile
	}{
		{specs.LinuxResources{}, nil},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period}}, []limitFile{{"cpu.weight", "39"}, {"cpu.max", "20000 100000"}}},
		{specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &none}}, []limitFile{{"cpu.max", "max"}}},
		{specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}}, []limitFile{{"memory.swap.max", "50"}}},
		{specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &all}}, []limitFile{{"memory.swap.max", "max"}}},
		{specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}, []limitFile{{"pids.max", "7"}}},
		{specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &anyPids}}, []limitFile{{"pids.max", "max"}}},
		{specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 9}}}, []limitFile{{"hugetlb.2MB.max", "9"}}},
		{specs.LinuxResources{Unified: map[string]string{"memory.high": "5", "cgroup.procs": "1"}}, []limitFile{{"memory.high", "5"}}},
	}
	for _, test := range tests {
		if got := limitFiles(&test.resources); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%+v: %v, not %v", test.resources, got, test.want)
		}
	}
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("%d shares weigh %d, not %d", shares, got, want)
		}
	}
}

func TestParseNetDev(t *testing.T) {
	got := parseNetDev(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
  eth0:    1000      10    1    2    0     0          0         0     2000      20    3    4    0     0       0          0
  short: 1 2
`)
	want := []runtime.NetworkStat{{Name: "eth0", RxBytes: 1000, RxPackets: 10, RxErrors: 1, RxDropped: 2, TxBytes: 2000, TxPackets: 20, TxErrors: 3, TxDropped: 4}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"depends":     "dummy\nnf_tables nfnetlink lib-crc\nnfnetlink\nlib_crc\nbroken\n",
		"alias":       "rtnl-link-dummy dummy\nnft-expr-* nf_tables\nbad[ dummy\nbreak broken\n",
		"dummy.ko.gz": "", "nf_tables.ko.gz": "", "nfnetlink.ko.gz": "", "broken.ko.gz": "", // lib_crc was loaded at boot
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var loaded []string
	m := modules{dir: dir, load: func(file string) error {
		loaded = append(loaded, filepath.Base(file))
		if filepath.Base(file) == "broken.ko.gz" {
			return errors.New("it is broken")
		}
		return nil
	}}
	for wanted, want := range map[string][]string{
		"dummy": {"dummy.ko.gz"}, "rtnl-link-dummy": {"dummy.ko.gz"}, "nft-expr-7-ct": {"nfnetlink.ko.gz", "nf_tables.ko.gz"}, "nf-tables": {"nfnetlink.ko.gz", "nf_tables.ko.gz"},
	} {
		loaded = nil
		if err := m.probe(wanted); err != nil || !slices.Equal(loaded, want) {
			t.Errorf("%s loads %q, %v", wanted, loaded, err)
		}
	}
	if err := m.probe("unknown"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	if err := m.probe("break"); err == nil {
		t.Error("a module that cannot be loaded is no error")
	}
}
