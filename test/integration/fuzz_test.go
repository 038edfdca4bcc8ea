package integration

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

const (
	fuzzSeed     = 1
	fuzzWorkers  = 4
	fuzzRequests = 12000 // of all workers together

	defaultPeriod = 100000 // µs, Linux's of a processor quota
)

// generator makes random requests: of words that mean something to the daemon, words
// that mean nothing, and real ids among them. It is for one goroutine.
type generator struct {
	*rand.Rand
	words []string
}

func (g *generator) message(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if g.IntN(10) < 3 { // many fields of a message, few at great depth
			continue
		}
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			for range g.IntN(3) {
				v := entries.NewValue()
				if f.MapValue().Message() != nil {
					g.message(v.Message(), depth+1)
				} else {
					v = g.scalar(f.MapValue())
				}
				entries.Set(g.scalar(f.MapKey()).MapKey(), v)
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range g.IntN(4) {
				if f.Message() == nil {
					list.Append(g.scalar(f))
					continue
				}
				v := list.NewElement()
				if depth < 8 {
					g.message(v.Message(), depth+1)
				}
				list.Append(v)
			}
		case f.Message() != nil:
			if depth < 8 {
				g.message(m.Mutable(f).Message(), depth+1)
			}
		default:
			m.Set(f, g.scalar(f))
		}
	}
}

// mutate changes a few fields of a message that is right as it is.
func (g *generator) mutate(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		single := f.Message() != nil && !f.IsMap() && !f.IsList()
		switch {
		case single && m.Has(f) && g.IntN(50) > 0:
			g.mutate(m.Mutable(f).Message(), depth+1)
		case g.IntN(25) > 0:
		default:
			other := dynamicpb.NewMessage(m.Descriptor())
			g.message(other, depth)
			if other.Has(f) {
				m.Set(f, other.Get(f))
			} else {
				m.Clear(f)
			}
		}
	}
}

func (g *generator) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	small := []int64{0, 0, 1, 1, 2, 80, 1000, 65534, 65536, 100000, -1, -2, math.MaxInt32, math.MinInt32}
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(g.IntN(2) == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(g.IntN(6) - 1))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(small[g.IntN(len(small))]))
	case protoreflect.Int64Kind:
		if g.IntN(8) == 0 {
			return protoreflect.ValueOfInt64(int64(g.Uint64()))
		}
		return protoreflect.ValueOfInt64(small[g.IntN(len(small))])
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(small[g.IntN(len(small))]))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(small[g.IntN(len(small))]))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(g.NormFloat64())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(g.words[g.IntN(len(g.words))]))
	default:
		return protoreflect.ValueOfString(g.words[g.IntN(len(g.words))])
	}
}

// spare keeps what the test itself needs and what would only cost time.
func spare(req *dynamicpb.Message, words map[string]bool, node *Node) {
	set := func(name string, v protoreflect.Value) {
		if f := req.Descriptor().Fields().ByName(protoreflect.Name(name)); f != nil {
			req.Set(f, v)
		}
	}
	set("timeout", protoreflect.ValueOfInt64(1))
	afford(req)
	// The seeds' pod and container go on for the others.
	if name := req.Descriptor().Name(); words[""] && (strings.HasPrefix(string(name), "Stop") || strings.HasPrefix(string(name), "Remove")) {
		set("pod_sandbox_id", protoreflect.ValueOfString("nothing"))
		set("container_id", protoreflect.ValueOfString("nothing"))
	}
	config := req.Descriptor().Fields().ByName("config")
	if config == nil || config.Message() == nil || !req.Has(config) {
		return
	}
	c := req.Mutable(config).Message()
	// Logs are written where the client says; the test's own directory is the place.
	if f := c.Descriptor().Fields().ByName("log_directory"); f != nil && words[c.Get(f).String()] {
		c.Set(f, protoreflect.ValueOfString(filepath.Join(node.Paths.Dir, "logs")))
	}
	if f := c.Descriptor().Fields().ByName("mounts"); f != nil && c.Has(f) {
		list := c.Mutable(f).List()
		for i := range list.Len() {
			m := list.Get(i).Message()
			host := m.Descriptor().Fields().ByName("host_path")
			if strings.HasPrefix(m.Get(host).String(), "/") {
				m.Set(host, protoreflect.ValueOfString(filepath.Join(node.Paths.Dir, "fuzz")))
			}
		}
	}
}

// afford raises the processor quotas of a request to a whole processor: whoever leaves a
// pod a thousandth of one waits for minutes for what is set up in the pod's cgroup, and that
// is what they asked for. A quota or period that is invalid stays so.
func afford(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if quota, period := fields.ByName("cpu_quota"), fields.ByName("cpu_period"); quota != nil && period != nil {
		if q := m.Get(quota).Int(); q > 0 {
			m.Set(quota, protoreflect.ValueOfInt64(max(q, m.Get(period).Int(), defaultPeriod)))
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && !f.IsMap() && !f.IsList() {
			afford(v.Message())
		}
		return true
	})
}

// TestRandomRequests: whatever a client sends, it gets an answer that blames it, and the
// daemon lives.
func TestRandomRequests(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	p := n.PodConfig()
	pod := n.RunPod(p)
	running, created := n.Run(pod, p, "sleep", "3600"), n.Create(pod, p, n.ContainerConfig("sleep", "3600"))
	words := append([]string{
		pod, pod, running, running, created, images.Busybox, images.Busybox, "true", "sleep", "sh", "-c", "/bin/sleep", "/", "/tmp",
		"/etc/passwd", "relative/path", "..", "root", "nobody", "0", "0-1", "10.0.0.1", "runc", "crun", "RuntimeDefault", "runtime/default",
		"NET_ADMIN", "ALL", "rwm", "/dev/null", "2MB", "kernel.shm_rmid_forced", "net.ipv4.ip_forward", "test", "pod.slice", "/kubepods/x",
		"registry.k8s.io/none:1", "memory.high", "s0", "label", "80", "a.log",
	}, hostile[:9]...)
	words = append(words, strings.Repeat("y", 5000), "日本", "%s%n", " ")
	known := map[string]bool{}
	for _, w := range words {
		known[w] = true
	}
	var methods []protoreflect.MethodDescriptor
	services := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
	for i := range services.Len() {
		all := services.Get(i).Methods()
		for j := range all.Len() {
			if !all.Get(j).IsStreamingServer() {
				methods = append(methods, all.Get(j))
			}
		}
	}
	seeds := map[protoreflect.Name][]byte{}
	for name, req := range map[protoreflect.Name]proto.Message{
		"RunPodSandbox":             &cri.RunPodSandboxRequest{Config: n.PodConfig()},
		"CreateContainer":           &cri.CreateContainerRequest{PodSandboxId: pod, Config: n.ContainerConfig("sleep", "3600"), SandboxConfig: p},
		"StartContainer":            &cri.StartContainerRequest{ContainerId: created},
		"ExecSync":                  &cri.ExecSyncRequest{ContainerId: running, Cmd: []string{"true"}},
		"UpdateContainerResources":  &cri.UpdateContainerResourcesRequest{ContainerId: running, Linux: &cri.LinuxContainerResources{CpuShares: 100}},
		"UpdatePodSandboxResources": &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &cri.LinuxContainerResources{CpuShares: 100}},
	} {
		text, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		seeds[name] = text
	}
	var total atomic.Int64
	deadline := time.Now().Add(25 * time.Second)
	counts := AllOf(fuzzWorkers, func(worker int) map[codes.Code]int {
		g := &generator{rand.New(rand.NewPCG(fuzzSeed, uint64(worker))), words}
		count := map[codes.Code]int{}
		for total.Add(1) <= fuzzRequests && time.Now().Before(deadline) {
			m := methods[g.IntN(len(methods))]
			if g.IntN(3) == 0 && seeds[m.Name()] == nil {
				continue // the seeded ones go deepest
			}
			count[n.fuzz(t, g, m, seeds, known)]++
		}
		return count
	})
	sum := map[codes.Code]int{}
	for _, c := range counts {
		for k, v := range c {
			sum[k] += v
		}
	}
	t.Logf("answers: %v", sum)
	n.NoPanic()
	if sum[codes.OK] == 0 || sum[codes.InvalidArgument] == 0 || sum[codes.NotFound] == 0 {
		t.Errorf("the requests are not diverse: %v", sum)
	}
}

// fuzz sends one request. It keeps the names that it may use to itself, so that what it
// makes can be taken down.
func (n *Node) fuzz(t *testing.T, g *generator, m protoreflect.MethodDescriptor, seeds map[protoreflect.Name][]byte, words map[string]bool) codes.Code {
	req := dynamicpb.NewMessage(m.Input())
	if base := seeds[m.Name()]; base != nil && g.IntN(8) > 0 {
		if err := proto.Unmarshal(base, req); err != nil {
			t.Fatal(err)
		}
		g.mutate(req, 0)
	} else {
		g.message(req, 0)
	}
	spare(req, words, n)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	err := n.conn.Invoke(ctx, name, req, dynamicpb.NewMessage(m.Output()))
	code := status.Code(err)
	switch code {
	case codes.Unknown, codes.Internal, codes.DataLoss, codes.DeadlineExceeded:
		if code == codes.DeadlineExceeded && m.Name() == "ExecSync" || strings.Contains(err.Error(), "invalid UTF-8") {
			break
		}
		text, _ := prototext.MarshalOptions{}.Marshal(proto.Message(req))
		t.Errorf("%s answers %.600v to\n%.1500s", m.Name(), err, text)
	}
	return code
}
