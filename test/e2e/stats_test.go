package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/cricket-cri/cricket/test/cluster"
)

// mebi is a mebibyte.
const mebi = 1 << 20

// TestStats compares what the kubelet tells of a pod, in each of its ways, with what the
// pod's processes say themselves; of the pod as a whole, and so of a virtual machine, with what
// the node's kernel says of the processes in the pod's cgroup. Those of the node are the
// kubelet's own, of its cgroups. The summary and the metrics come from the runtime:
// PodAndContainerStatsFromCRI.
func TestStats(t *testing.T) {
	onHullsAlone(t, func(e *env) {
		e.pod("load", `
containers:
  - name: cpu
    image: BUSYBOX
    command: [sh, -c, "while :; do :; done"]
    resources: {limits: {cpu: 400m, memory: 32Mi}}
  - name: memory
    image: BUSYBOX
    command: [awk, 'BEGIN {s = sprintf("%67108864s", "x"); print length(s); fflush(); while (1) system("sleep 3600")}']
    resources: {limits: {cpu: 400m, memory: 256Mi}}
  - name: disk
    image: BUSYBOX
    command: [sh, -c, "head -c 64m /dev/zero | tr '\\0' x > /file; sync; sleep 3600"]
    resources: {limits: {cpu: 400m, memory: 128Mi}}
`)
		p := e.ready("load")
		e.eventually("the memory is taken", func() error {
			if out := e.log("load", "memory"); out != "67108864\n" {
				return fmt.Errorf("it says %q", out)
			}
			return nil
		})
		received := e.download("load", "disk", 48*mebi)
		e.eventually("the disk's use is measured", func() error {
			return near("bytes written", e.told("load").container("disk").Rootfs.UsedBytes, 64*mebi)
		})

		first := e.sample(p)
		time.Sleep(45 * time.Second)
		last := e.sample(p)
		passed := last.at.Sub(first.at).Seconds()
		rate, podRate := (last.own-first.own)/passed, (last.pod-first.pod)/passed
		for what, got := range map[string]float64{
			"summary":            last.summary.container("cpu").CPU.since(first.summary.container("cpu").CPU),
			"summary, right now": last.summary.container("cpu").CPU.UsageNanoCores / 1e9,
			"/metrics/cadvisor":  (last.cadvisor["container_cpu_usage_seconds_total"] - first.cadvisor["container_cpu_usage_seconds_total"]) / passed,
			"/metrics/resource":  (last.resource["container_cpu_usage_seconds_total"] - first.resource["container_cpu_usage_seconds_total"]) / passed,
		} {
			e.near("processor by "+what, got, rate)
		}
		e.near("the pod's processor by summary", last.summary.CPU.since(first.summary.CPU), podRate)
		e.near("the pod's processor by /metrics/resource", (last.whole["pod_cpu_usage_seconds_total"]-first.whole["pod_cpu_usage_seconds_total"])/passed, podRate)
		e.near("the pod's memory by summary", last.summary.Memory.WorkingSetBytes, e.used(p))
		e.near("the pod's memory by /metrics/resource", last.whole["pod_memory_working_set_bytes"], e.used(p))
		resident := e.number("load", "memory", `awk '/^Rss(Anon|Shmem)/ {n += $2} END {print n * 1024}' /proc/1/status`)
		for what, got := range map[string]float64{
			"summary, working set": last.summary.container("memory").Memory.WorkingSetBytes,
			"summary, resident":    last.summary.container("memory").Memory.RSSBytes,
			"/metrics/cadvisor":    e.metrics("cadvisor", "load", "memory")["container_memory_working_set_bytes"],
			"/metrics/resource":    e.metrics("resource", "load", "memory")["container_memory_working_set_bytes"],
		} {
			e.near("memory by "+what, got, resident)
		}
		e.near("network by summary", last.summary.Network.RxBytes, received)
		e.near("network by /metrics/cadvisor", e.metrics("cadvisor", "load", "")["container_network_receive_bytes_total"], received)
	})
}

// near compares a figure with the truth, within ten per cent.
func (e *env) near(what string, got, want float64) {
	e.t.Helper()
	if err := near(what, got, want); err != nil {
		e.t.Error(err)
	}
}

func near(what string, got, want float64) error {
	if math.IsNaN(got) || math.Abs(got-want) > want/10 {
		return fmt.Errorf("%s: %.6g is told, %.6g is true", what, got, want)
	}
	return nil
}

// download has a container fetch so many bytes from the node, and returns what that is on
// the wire, with headers of 66 bytes to 1448.
func (e *env) download(pod, container string, bytes int64) float64 {
	e.t.Helper()
	l, err := net.Listen("tcp", nodeAddress+":0")
	e.ok(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(bytes, 10))
		_, _ = io.CopyN(w, zeros{}, bytes)
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	e.exec(pod, container, "wget -qO /dev/null http://"+l.Addr().String()+"/")
	return float64(bytes) * (1448 + 66) / 1448
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// figures are what the kubelet tells of a pod at one time, and the truth.
type figures struct {
	at                 time.Time
	summary            podStats
	cadvisor, resource map[string]float64 // of container cpu
	whole              map[string]float64 // of the pod
	// Seconds of processor time: of the process of container cpu, as it says itself, and of all
	// processes of the pod's on the node.
	own, pod float64
}

func (e *env) sample(p *corev1.Pod) figures {
	e.t.Helper()
	f := figures{own: e.number(p.Name, "cpu", `awk '{print $14 + $15}' /proc/1/stat`) / ticksPerSecond}
	f.at = time.Now()
	f.pod = e.podTime(p)
	f.summary = e.told(p.Name)
	f.cadvisor, f.resource = e.metrics("cadvisor", p.Name, "cpu"), e.metrics("resource", p.Name, "cpu")
	f.whole = e.metrics("resource", p.Name, "")
	return f
}

// ticksPerSecond is USER_HZ of /proc: proc(5).
const ticksPerSecond = 100

// podTime is the processor time of the processes in a pod's cgroup that live.
func (e *env) podTime(p *corev1.Pod) (seconds float64) {
	e.t.Helper()
	for _, pid := range e.processes(p) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		seconds += (parse(e, f[11]) + parse(e, f[12])) / ticksPerSecond
	}
	return seconds
}

// processes are those in a pod's cgroup.
func (e *env) processes(p *corev1.Pod) (pids []string) {
	e.t.Helper()
	e.ok(filepath.WalkDir(podCgroupDir(e, p, "cpu"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		list, err := os.ReadFile(path)
		pids = append(pids, strings.Fields(string(list))...)
		return err
	}))
	return pids
}

// used is the memory of a pod's cgroup that cannot be given back at once; of a machine what
// no other shares, for it was made in another cgroup, which is charged with the beginning.
func (e *env) used(p *corev1.Pod) (taken float64) {
	e.t.Helper()
	if e.hull == virtual {
		for _, pid := range e.processes(p) {
			rollup, _ := os.ReadFile("/proc/" + pid + "/smaps_rollup") // it may have ended
			for _, m := range regexp.MustCompile(`(?m)^Private_\w+: +(\d+) kB$`).FindAllStringSubmatch(string(rollup), -1) {
				taken += parse(e, m[1]) * 1024
			}
		}
		return taken
	}
	usage := parse(e, podCgroup(e, p, "memory/memory.usage_in_bytes", "memory.current"))
	m := regexp.MustCompile(`(?m)^(?:total_)?inactive_file (\d+)$`).FindAllStringSubmatch(podCgroup(e, p, "memory/memory.stat", "memory.stat"), -1)
	return usage - parse(e, m[len(m)-1][1]) // in version 1 the total comes last
}

func parse(e *env, text string) float64 {
	e.t.Helper()
	n, err := strconv.ParseFloat(text, 64)
	e.ok(err)
	return n
}

// number runs a command that prints one.
func (e *env) number(pod, container, command string) float64 {
	e.t.Helper()
	out := e.exec(pod, container, command)
	n, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		e.t.Fatalf("%s says %q", command, out)
	}
	return n
}

// podStats is the part of the kubelet's summary that this suite reads:
// k8s.io/kubelet/pkg/apis/stats/v1alpha1.
type podStats struct {
	PodRef     struct{ Name, Namespace string }
	Containers []containerStats
	Network    struct{ RxBytes, TxBytes float64 }
	CPU        cpuStats
	Memory     memoryStats
}

type containerStats struct {
	Name   string
	CPU    cpuStats
	Memory memoryStats
	Rootfs struct{ UsedBytes float64 }
}

type cpuStats struct {
	Time                                 time.Time
	UsageNanoCores, UsageCoreNanoSeconds float64
}

type memoryStats struct{ WorkingSetBytes, RSSBytes float64 }

func (p podStats) container(name string) containerStats {
	for _, c := range p.Containers {
		if c.Name == name {
			return c
		}
	}
	return containerStats{}
}

// since is how many processors were used since then.
func (c cpuStats) since(then cpuStats) float64 {
	return (c.UsageCoreNanoSeconds - then.UsageCoreNanoSeconds) / float64(c.Time.Sub(then.Time))
}

// kubelet asks the node's kubelet by way of the API server, until it answers: it may have
// been started just now.
func (e *env) kubelet(path string) (answer string) {
	e.t.Helper()
	e.eventually("the kubelet answers", func() error {
		data, err := e.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(cluster.NodeName).SubResource("proxy").Suffix(path).DoRaw(e.t.Context())
		answer = string(data)
		return err
	})
	return answer
}

// told is what the summary tells of a pod.
func (e *env) told(pod string) podStats {
	e.t.Helper()
	var all struct{ Pods []podStats }
	e.ok(json.Unmarshal([]byte(e.kubelet("stats/summary")), &all))
	for _, p := range all.Pods {
		if p.PodRef.Name == pod && p.PodRef.Namespace == e.ns {
			return p
		}
	}
	return podStats{}
}

var (
	metricLine  = regexp.MustCompile(`(?m)^(\w+)\{(.*)\} (\S+)`)
	metricLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// metrics are those of a container, or of the pod where it is "", at one of the kubelet's
// places. Those of interfaces are of eth0.
func (e *env) metrics(place, pod, container string) map[string]float64 {
	e.t.Helper()
	found := map[string]float64{}
	for _, line := range metricLine.FindAllStringSubmatch(e.kubelet("metrics/"+place), -1) {
		labels := map[string]string{}
		for _, l := range metricLabel.FindAllStringSubmatch(line[2], -1) {
			labels[l[1]] = l[2]
		}
		if labels["namespace"] != e.ns || labels["pod"] != pod || labels["container"] != container || labels["interface"] != "" && labels["interface"] != "eth0" {
			continue
		}
		if place == "cadvisor" && container != "" && (labels["id"] == "" || labels["image"] == "" || labels["name"] == "") {
			e.t.Errorf("%s of %s/%s has no id, image or name: %s", line[1], pod, container, line[2])
		}
		value, err := strconv.ParseFloat(line[3], 64)
		e.ok(err)
		found[line[1]] = value
	}
	return found
}
