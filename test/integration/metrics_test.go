package integration

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// metricLoad is a container with known figures: 24 MiB of memory in files, 8 MiB written
// past the page cache, 20 more descriptors, one listening socket, three processes, a limit
// of 333 open files, and a processor kept busy.
const metricLoad = `
ulimit -Sn 333
dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null
dd if=/dev/zero of=/direct bs=1M count=8 oflag=direct || dd if=/dev/zero of=/direct bs=1M count=8 conv=fsync
for fd in 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39; do eval "exec $fd</dev/null"; done
tcpsvd -E 0.0.0.0 8080 dd of=/dev/null bs=1M </dev/null 20<&- 21<&- 22<&- 23<&- 24<&- 25<&- 26<&- 27<&- 28<&- 29<&- 30<&- 31<&- 32<&- 33<&- 34<&- 35<&- 36<&- 37<&- 38<&- 39<&- &
sh -c 'while :; do :; done' 20<&- 21<&- 22<&- 23<&- 24<&- 25<&- 26<&- 27<&- 28<&- 29<&- 30<&- 31<&- 32<&- 33<&- 34<&- 35<&- 36<&- 37<&- 38<&- 39<&- &
echo ready
wait
`

// figures are the values of one object's metrics by name and the labels of their own.
func figures(t *testing.T, list []*cri.Metric, keys map[string][]string) map[string]float64 {
	t.Helper()
	const base = 6
	all := map[string]float64{}
	for _, m := range list {
		if len(m.GetLabelValues()) != len(keys[m.GetName()]) {
			t.Errorf("%v has labels %q", m, keys[m.GetName()])
			continue
		}
		name := strings.Join(append([]string{m.GetName()}, m.GetLabelValues()[base:]...), " ")
		if _, twice := all[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		all[name] = float64(m.GetValue().GetValue())
	}
	return all
}

// TestMetrics holds the metrics of a pod and of its container against a load that is known.
func TestMetrics(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(config, []byte("[stats]\nmax_age = \"100ms\"\ndisk_interval = \"1s\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := Start(t, "--config", config)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", metricLoad)
	c.Linux.Resources = &cri.LinuxContainerResources{CpuQuota: 50000, CpuPeriod: 100000, CpuShares: 512, MemoryLimitInBytes: 128 << 20}
	began := time.Now()
	id := n.Started(pod, p, c)
	Within(t, time.Minute, "the load is there", func() bool { return strings.Contains(n.Log(p, c), "ready") })
	time.Sleep(5 * time.Second)

	keys := n.metricKeys()
	of := n.metricsOf(pod)
	own, whole := figures(t, of.GetContainerMetrics()[0].GetMetrics(), keys), figures(t, of.GetMetrics(), keys)
	n.checkLabels(of, pod, id, p, c)
	checkFigures(t, own, began)
	n.checkMissing(keys, own, whole)
	n.checkNetwork(pod, keys)
	if got := whole["container_memory_usage_bytes"]; got < own["container_memory_usage_bytes"] && !InVMs() {
		t.Errorf("the pod uses %.0f bytes, its container %.0f", got, own["container_memory_usage_bytes"])
	}
}

// metricKeys are the labels of every metric that is described.
func (n *Node) metricKeys() map[string][]string {
	n.t.Helper()
	d, err := n.Runtime.ListMetricDescriptors(n.t.Context(), &cri.ListMetricDescriptorsRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	keys := map[string][]string{}
	for _, m := range d.GetDescriptors() {
		keys[m.GetName()] = m.GetLabelKeys()
	}
	return keys
}

func (n *Node) metricsOf(pod string) *cri.PodSandboxMetrics {
	n.t.Helper()
	r, err := n.Runtime.ListPodSandboxMetrics(n.t.Context(), &cri.ListPodSandboxMetricsRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	i := slices.IndexFunc(r.GetPodMetrics(), func(m *cri.PodSandboxMetrics) bool { return m.GetPodSandboxId() == pod })
	if i < 0 || len(r.GetPodMetrics()[i].GetContainerMetrics()) != 1 {
		n.t.Fatalf("no metrics of the pod and its container: %v", r)
	}
	return r.GetPodMetrics()[i]
}

func (n *Node) checkLabels(of *cri.PodSandboxMetrics, pod, id string, p *cri.PodSandboxConfig, c *cri.ContainerConfig) {
	n.t.Helper()
	want := []string{c.GetMetadata().GetName(), id, images.Busybox, id, "test", p.GetMetadata().GetName()}
	if got := of.GetContainerMetrics()[0].GetContainerId(); got != id {
		n.t.Errorf("the container's metrics are those of %s, want %s", got, id)
	}
	kinds := map[string]cri.MetricType{
		"container_cpu_usage_seconds_total": cri.MetricType_COUNTER, "container_memory_usage_bytes": cri.MetricType_GAUGE,
	}
	for _, m := range of.GetContainerMetrics()[0].GetMetrics() {
		kind, known := kinds[m.GetName()]
		if m.GetTimestamp() == 0 || known && m.GetMetricType() != kind {
			n.t.Errorf("%s is a %s of the time %d", m.GetName(), m.GetMetricType(), m.GetTimestamp())
		}
		if !slices.Equal(m.GetLabelValues()[:6], want) {
			n.t.Fatalf("%s has the labels %q, want %q", m.GetName(), m.GetLabelValues(), want)
		}
	}
	want = []string{"", pod, "", "", "test", p.GetMetadata().GetName()}
	for _, m := range of.GetMetrics() {
		if !slices.Equal(m.GetLabelValues()[:6], want) {
			n.t.Fatalf("%s of the pod has the labels %q, want %q", m.GetName(), m.GetLabelValues(), want)
		}
	}
}

func checkFigures(t *testing.T, own map[string]float64, began time.Time) {
	t.Helper()
	const none = 1e18
	for name, within := range map[string][2]float64{
		"container_cpu_usage_seconds_total total":           {1, 60},
		"container_cpu_user_seconds_total":                  {1, 60},
		"container_cpu_cfs_periods_total":                   {20, none},
		"container_cpu_cfs_throttled_periods_total":         {0, none}, // on a busy machine it may not get what it may take
		"container_cpu_cfs_throttled_seconds_total":         {0, none},
		"container_cpu_cfs_burst_periods_total":             {0, 0},
		"container_spec_cpu_quota":                          {50000, 50000},
		"container_spec_cpu_period":                         {100000, 100000},
		"container_spec_cpu_shares":                         {500, 1600}, // v2 has weights, and runtimes two ways to make them of shares
		"container_memory_usage_bytes":                      {24 << 20, 64 << 20},
		"container_memory_cache":                            {24 << 20, 64 << 20},
		"container_memory_max_usage_bytes":                  {24 << 20, 128 << 20},
		"container_memory_working_set_bytes":                {24 << 20, 64 << 20},
		"container_memory_rss":                              {16 << 10, 16 << 20},
		"container_memory_failcnt":                          {0, 0},
		"container_memory_failures_total pgfault container": {100, none},
		"container_memory_failures_total pgfault hierarchy": {100, none},
		"container_spec_memory_limit_bytes":                 {128 << 20, 128 << 20},
		"container_spec_memory_reservation_limit_bytes":     {0, 0},
		"container_oom_events_total":                        {0, 0},
		"container_processes":                               {3, 3},
		"container_threads":                                 {3, 3},
		"container_file_descriptors":                        {29, 40},
		"container_sockets":                                 {1, 1},
		"container_ulimits_soft max_open_files":             {333, 333},
		"container_tasks_state sleeping":                    {1, 3},
		"container_tasks_state stopped":                     {0, 0},
		"container_start_time_seconds":                      {float64(began.Unix()), float64(time.Now().Unix())},
		"container_creation_time_seconds":                   {float64(began.Unix()), float64(time.Now().Unix())},
		"container_last_seen":                               {float64(began.Unix()) + 4, float64(time.Now().Unix())},
	} {
		got, ok := own[name]
		if !ok || got < within[0] || got > within[1] {
			t.Errorf("%s = %.0f (%t), want %.0f to %.0f", name, got, ok, within[0], within[1])
		}
	}
	usage, written, blkio := 0.0, 0.0, 0.0
	for name, v := range own {
		switch {
		case strings.HasPrefix(name, "container_fs_usage_bytes /dev/"):
			usage += v
		case strings.HasPrefix(name, "container_fs_writes_bytes_total /dev/"):
			written += v
		case strings.HasPrefix(name, "container_blkio_device_usage_total /dev/") && strings.HasSuffix(name, " Write"):
			blkio += v
		}
	}
	near(t, "bytes in the writable layer", usage, 8<<20)
	if !countsIO() {
		return
	}
	if written < 8<<20 || written > 24<<20 || blkio != written {
		t.Errorf("%.0f bytes are written, by device %.0f", written, blkio)
	}
}

// countsIO tells whether this kernel counts I/O by cgroup. That of v1 does so only while
// something is throttled or BFQ schedules (since Linux 6.10): then its root has figures.
func countsIO() bool {
	v1, err := os.ReadFile("/sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes_recursive")
	return InVMs() || err != nil || strings.Contains(string(v1), " Write ")
}

// checkMissing fails for what is described and that nobody has a value of, except for what
// this kernel does not count.
func (n *Node) checkMissing(keys map[string][]string, own, whole map[string]float64) {
	n.t.Helper()
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	v2 := err == nil || InVMs()
	has := map[string]bool{}
	for _, of := range []map[string]float64{own, whole} {
		for name := range of {
			name, _, _ = strings.Cut(name, " ")
			has[name] = true
		}
	}
	for name := range keys {
		onlyV2 := strings.HasPrefix(name, "container_pressure_")
		if strings.HasPrefix(name, "container_fs_reads_") || strings.HasPrefix(name, "container_fs_writes_") || strings.HasPrefix(name, "container_blkio_") {
			if !countsIO() && !has[name] {
				continue
			}
		}
		if has[name] || strings.HasPrefix(name, "container_hugetlb_") || onlyV2 && !v2 {
			continue
		}
		n.t.Errorf("%s is described and nobody has it", name)
	}
}

// checkNetwork sends bytes into the pod and expects them in its figures.
func (n *Node) checkNetwork(pod string, keys map[string][]string) {
	n.t.Helper()
	st, err := n.Runtime.PodSandboxStatus(n.t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		n.t.Fatal(err)
	}
	const name, size = "container_network_receive_bytes_total eth0", 8 << 20
	before := figures(n.t, n.metricsOf(pod).GetMetrics(), keys)[name]
	conn, err := net.Dial("tcp", net.JoinHostPort(st.GetStatus().GetNetwork().GetIp(), "8080"))
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, size)); err != nil {
		n.t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn)
	conn.Close()
	time.Sleep(200 * time.Millisecond)
	near(n.t, "received bytes", figures(n.t, n.metricsOf(pod).GetMetrics(), keys)[name]-before, size)
}
