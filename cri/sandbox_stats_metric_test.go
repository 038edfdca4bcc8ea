package cri

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/sandbox"
)

// wantedMetrics are the names, types and labels of the figures of pods and containers that
// are to come from the runtime: those of KEP-2371's table ("Current Fulfiller of Metrics
// Endpoints"), those that critest 1.37 looks for (expectedMetricDescriptorNames), and those
// that the kubelet 1.37 has cAdvisor (lib v0.60.5, metrics/prometheus.go) make. A star marks
// a gauge; labels follow in parentheses.
const wantedMetrics = `
container_blkio_device_usage_total(device,major,minor,operation)
container_cpu_cfs_burst_periods_total
container_cpu_cfs_burst_seconds_total
container_cpu_cfs_periods_total
container_cpu_cfs_throttled_periods_total
container_cpu_cfs_throttled_seconds_total
container_cpu_load_average_10s*
container_cpu_system_seconds_total
container_cpu_usage_seconds_total(cpu)
container_cpu_user_seconds_total
container_creation_time_seconds*
container_file_descriptors*
container_fs_inodes_free*(device)
container_fs_inodes_total*(device)
container_fs_io_cost_indebt_seconds_total(device)
container_fs_io_cost_indelay_seconds_total(device)
container_fs_io_cost_usage_seconds_total(device)
container_fs_io_cost_wait_seconds_total(device)
container_fs_io_current*(device)
container_fs_io_time_seconds_total(device)
container_fs_io_time_weighted_seconds_total(device)
container_fs_limit_bytes*(device)
container_fs_read_seconds_total(device)
container_fs_reads_bytes_total(device)
container_fs_reads_merged_total(device)
container_fs_reads_total(device)
container_fs_sector_reads_total(device)
container_fs_sector_writes_total(device)
container_fs_usage_bytes*(device)
container_fs_write_seconds_total(device)
container_fs_writes_bytes_total(device)
container_fs_writes_merged_total(device)
container_fs_writes_total(device)
container_health_state*
container_hugetlb_max_usage_bytes*(pagesize)
container_hugetlb_usage_bytes*(pagesize)
container_last_seen*
container_memory_cache*
container_memory_events_high_total
container_memory_events_max_total
container_memory_failcnt
container_memory_failures_total(failure_type,scope)
container_memory_file_dirty_bytes*
container_memory_file_writeback_bytes*
container_memory_kernel_usage*
container_memory_mapped_file*
container_memory_max_usage_bytes*
container_memory_pgscan_total
container_memory_pgsteal_total
container_memory_rss*
container_memory_swap*
container_memory_total_active_file_bytes*
container_memory_total_inactive_file_bytes*
container_memory_usage_bytes*
container_memory_working_set_bytes*
container_memory_workingset_refault_anon_total
container_memory_workingset_refault_file_total
container_network_receive_bytes_total(interface)
container_network_receive_errors_total(interface)
container_network_receive_packets_dropped_total(interface)
container_network_receive_packets_total(interface)
container_network_transmit_bytes_total(interface)
container_network_transmit_errors_total(interface)
container_network_transmit_packets_dropped_total(interface)
container_network_transmit_packets_total(interface)
container_oom_events_total
container_pressure_cpu_stalled_seconds_total
container_pressure_cpu_waiting_seconds_total
container_pressure_io_stalled_seconds_total
container_pressure_io_waiting_seconds_total
container_pressure_memory_stalled_seconds_total
container_pressure_memory_waiting_seconds_total
container_processes*
container_scrape_error*
container_sockets*
container_spec_cpu_period*
container_spec_cpu_quota*
container_spec_cpu_shares*
container_spec_memory_limit_bytes*
container_spec_memory_reservation_limit_bytes*
container_spec_memory_swap_limit_bytes*
container_start_time_seconds*
container_tasks_state*(state)
container_threads*
container_threads_max*
container_ulimits_soft*(ulimit)
`

// withoutMetrics are left out, and why. The limitations name them, too.
var withoutMetrics = map[string]string{
	"container_cpu_load_average_10s":              "KEP-2371 removes it: cgroup v2 has no such figure",
	"container_fs_io_current":                     "the kernel does not count it by cgroup",
	"container_fs_io_time_seconds_total":          "the kernel does not count it by cgroup",
	"container_fs_io_time_weighted_seconds_total": "the kernel does not count it by cgroup",
	"container_fs_read_seconds_total":             "the kernel does not count it by cgroup",
	"container_fs_write_seconds_total":            "the kernel does not count it by cgroup",
	"container_fs_reads_merged_total":             "the kernel does not count it by cgroup",
	"container_fs_writes_merged_total":            "the kernel does not count it by cgroup",
	"container_fs_sector_reads_total":             "the kernel does not count it by cgroup; bytes say the same",
	"container_fs_sector_writes_total":            "the kernel does not count it by cgroup; bytes say the same",
	"container_fs_io_cost_indebt_seconds_total":   "a policy of the kernel that Cricket does not set up",
	"container_fs_io_cost_indelay_seconds_total":  "a policy of the kernel that Cricket does not set up",
	"container_fs_io_cost_usage_seconds_total":    "a policy of the kernel that Cricket does not set up",
	"container_fs_io_cost_wait_seconds_total":     "a policy of the kernel that Cricket does not set up",
	"container_health_state":                      "of Docker's health checks; the kubelet has probes",
	"container_scrape_error":                      "of whoever scrapes, and of no container",
}

// TestMetricsAreThoseOfTheKEP holds the table against the list: none is missing without a
// reason, none is of another type or has other labels, none is made up.
func TestMetricsAreThoseOfTheKEP(t *testing.T) {
	have := map[string]metric{}
	for _, m := range metrics() {
		if _, twice := have[m.name]; twice {
			t.Errorf("%s is there twice", m.name)
		}
		have[m.name] = m
	}
	for wanted := range strings.FieldsSeq(wantedMetrics) {
		name, labels, _ := strings.Cut(strings.TrimSuffix(wanted, ")"), "(")
		name, isGauge := strings.CutSuffix(name, "*")
		m, ok := have[name]
		delete(have, name)
		if reason := withoutMetrics[name]; reason != "" {
			if ok {
				t.Errorf("%s is there, but the list says: %s", name, reason)
			}
			continue
		}
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		if (m.kind == v1.MetricType_GAUGE) != isGauge {
			t.Errorf("%s is a %s", name, m.kind)
		}
		if got := strings.Join(m.labels, ","); got != labels {
			t.Errorf("%s has the labels %q, want %q", name, got, labels)
		}
		if !strings.HasSuffix(m.help, ".") || !slices.IsSorted(metricLabels) {
			t.Errorf("%s: help %q, labels %q", name, m.help, metricLabels)
		}
	}
	for name := range have {
		t.Errorf("%s is in no list", name)
	}
}

// TestMetricsOfEveryHandler: what a pod of some handler cannot have is not described, nor is
// it there of others.
func TestMetricsOfEveryHandler(t *testing.T) {
	const onlyV2 = "container_memory_events_max_total"
	s := paperServer(t, paperContainer{}, &paperImages{})
	for _, other := range []bool{true, false} {
		s.opts.Drivers["other"] = featuresDriver{features: sandbox.Features{CgroupV2: other}}
		d, err := s.ListMetricDescriptors(t.Context(), &v1.ListMetricDescriptorsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		described := slices.ContainsFunc(d.GetDescriptors(), func(d *v1.MetricDescriptor) bool { return d.GetName() == onlyV2 })
		l, err := s.ListPodSandboxMetrics(t.Context(), &v1.ListPodSandboxMetricsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		there := slices.ContainsFunc(l.GetPodMetrics()[0].GetContainerMetrics()[0].GetMetrics(), func(m *v1.Metric) bool { return m.GetName() == onlyV2 })
		if described != other || there != other {
			t.Errorf("beside a handler with cgroups of version 2 (%t): described %t, there %t", other, described, there)
		}
	}
}
