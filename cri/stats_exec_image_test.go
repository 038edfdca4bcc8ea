package cri

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/sandbox"
)

// paperDriver, paperPod and paperContainer stand for a hull where only figures and exec
// exist.
type paperDriver struct{ sandbox.Driver }

func (paperDriver) Features() sandbox.Features { return sandbox.Features{CgroupV2: true} }

type paperPod struct{ sandbox.Sandbox }

func (paperPod) Stat(_ context.Context, s *sandbox.Stat) error {
	s.Pids = new(uint64(3))
	s.CPUNanos = new(uint64(5e9))
	s.Network = []runtime.NetworkStat{{Name: "lo"}, {Name: "eth0", RxBytes: 7, TxErrors: 2}, {Name: "net1"}}
	return nil
}

type paperContainer struct {
	runtime.Container
	exec func(context.Context, runtime.ExecConfig) (runtime.Exit, error)
	stat error
}

func (c paperContainer) Exec(ctx context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
	return c.exec(ctx, e)
}

func (c paperContainer) Stat(_ context.Context, s *runtime.Stat) error {
	s.CPUNanos, s.Memory.WorkingSet, s.Memory.MaxEvents = new(uint64(2_500_000_000)), new(uint64(4096)), new(uint64(1))
	s.CPUPressure = &runtime.Pressure{Some: runtime.PressureLine{Avg10: 1.5, Total: 2_000_000}}
	return c.stat
}

func (paperContainer) DiskUsage(context.Context) (runtime.DiskUsage, error) {
	return runtime.DiskUsage{At: time.Now(), Bytes: 8192, Inodes: 2, FS: &runtime.FSStat{Device: "/dev/vda", Bytes: 1 << 30}}, nil
}

func (paperContainer) Processes(context.Context) (runtime.ProcessStat, error) {
	return runtime.ProcessStat{Processes: 1, Sockets: 2, MaxOpenFiles: new(uint64(1024))}, nil
}

type paperImages struct {
	Images
	images []image.Image
	pulled *image.Auth
}

func (p *paperImages) Get(ref string) (image.Image, error) {
	for _, i := range p.images {
		if ref == i.ID.String() || len(i.RepoTags) > 0 && ref == i.RepoTags[0] {
			return i, nil
		}
	}
	return image.Image{}, errdefs.ErrNotFound
}

func (p *paperImages) Allow(digest.Digest, string, string) error { return nil }

func (p *paperImages) List() []image.Image { return p.images }

func (p *paperImages) Pull(_ context.Context, ref string, auth *image.Auth, _ ...image.PullOption) (image.Image, error) {
	p.pulled = auth
	return p.Get(ref)
}

func (p *paperImages) Remove(_ context.Context, ref string) error {
	p.images = nil
	return nil
}

func (p *paperImages) Usage() (image.Usage, error) {
	return image.Usage{At: time.Now(), Bytes: 100, Inodes: 5}, nil
}

// paperServer has the sandbox s, and in it the running container run, the exited one
// done and the vanished one gone.
func paperServer(t *testing.T, c paperContainer, images *paperImages) *Server {
	t.Helper()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Options{Dir: dir, Journal: filepath.Join(dir, "journal"), Boot: "b", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{
		Drivers: map[string]sandbox.Driver{"paper": paperDriver{}}, DefaultHandler: "paper",
		Images: images, Store: st, ImageDir: dir, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(context.Background()), st.Close()); err != nil {
			t.Error(err)
		}
	})
	began := time.Now().Add(-10 * time.Second)
	pod := &store.Sandbox{ID: "s1", Boot: "b", Config: &v1.PodSandboxConfig{
		Metadata: &v1.PodSandboxMetadata{Name: "pod", Namespace: "ns", Uid: "u"}, Labels: map[string]string{"a": "1"},
	}, CreatedAt: began, ReadyAt: began}
	if err := st.Sandboxes.Add(pod); err != nil {
		t.Fatal(err)
	}
	s.live.setSandbox("s1", paperPod{})
	for _, name := range []string{"run", "done", "gone"} {
		rec := &store.Container{ID: name, SandboxID: "s1", Boot: "b", Config: &v1.ContainerConfig{
			Metadata: &v1.ContainerMetadata{Name: name}, Labels: map[string]string{"name": name},
			Image: &v1.ImageSpec{Image: "busybox"},
		}, CreatedAt: began, MadeAt: began, StartedAt: began}
		live := c
		if name == "done" {
			rec.FinishedAt = time.Now()
		}
		if name == "gone" {
			live.stat = errdefs.ErrNotFound
		}
		if err := st.Containers.Add(rec); err != nil {
			t.Fatal(err)
		}
		s.live.setContainer(name, live)
	}
	return s
}

func TestContainerStats(t *testing.T) {
	s := paperServer(t, paperContainer{}, &paperImages{})
	for _, f := range []*v1.ContainerStatsFilter{nil, {Id: "ru"}, {PodSandboxId: "s"}, {LabelSelector: map[string]string{"name": "run"}}} {
		resp, err := s.ListContainerStats(t.Context(), &v1.ListContainerStatsRequest{Filter: f})
		if err != nil || len(resp.GetStats()) != 1 || resp.GetStats()[0].GetAttributes().GetId() != "run" {
			t.Errorf("filter %v: %v, %v", f, resp, err)
		}
	}
	for _, f := range []*v1.ContainerStatsFilter{{Id: "x"}, {PodSandboxId: "x"}, {LabelSelector: map[string]string{"name": "x"}}} {
		if resp, err := s.ListContainerStats(t.Context(), &v1.ListContainerStatsRequest{Filter: f}); err != nil || len(resp.GetStats()) != 0 {
			t.Errorf("filter %v: %v, %v", f, resp, err)
		}
	}
	resp, err := s.ContainerStats(t.Context(), &v1.ContainerStatsRequest{ContainerId: "run"})
	if err != nil {
		t.Fatal(err)
	}
	st := resp.GetStats()
	if cores := st.GetCpu().GetUsageNanoCores().GetValue(); cores < 2e8 || cores > 2.5e8 { // 2.5 s in 10 s
		t.Errorf("cores = %d", cores)
	}
	if psi := st.GetCpu().GetPsi().GetSome(); psi.GetTotal() != 2_000_000_000 || psi.GetAvg10() != 1.5 {
		t.Errorf("psi = %v", psi)
	}
	if st.GetMemory().GetWorkingSetBytes().GetValue() != 4096 || st.GetMemory().GetUsageBytes() != nil || st.GetSwap() != nil {
		t.Errorf("memory = %v, swap = %v", st.GetMemory(), st.GetSwap())
	}
	if st.GetWritableLayer().GetUsedBytes().GetValue() != 8192 || st.GetWritableLayer().GetFsId().GetMountpoint() == "" {
		t.Errorf("writable layer = %v", st.GetWritableLayer())
	}
	resp, err = s.ContainerStats(t.Context(), &v1.ContainerStatsRequest{ContainerId: "done"})
	if err != nil || resp.GetStats().GetCpu() != nil || resp.GetStats().GetWritableLayer() == nil {
		t.Errorf("exited container: %v, %v", resp, err)
	}
	for id, want := range map[string]codes.Code{"nix": codes.NotFound, "gone": codes.NotFound} {
		if _, err := s.ContainerStats(t.Context(), &v1.ContainerStatsRequest{ContainerId: id}); codeOf(err) != want {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestPodSandboxStats(t *testing.T) {
	s := paperServer(t, paperContainer{}, &paperImages{})
	resp, err := s.ListPodSandboxStats(t.Context(), &v1.ListPodSandboxStatsRequest{Filter: &v1.PodSandboxStatsFilter{LabelSelector: map[string]string{"a": "1"}}})
	if err != nil || len(resp.GetStats()) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	l := resp.GetStats()[0].GetLinux()
	if n := l.GetNetwork(); n.GetDefaultInterface().GetName() != "eth0" || n.GetDefaultInterface().GetRxBytes().GetValue() != 7 || len(n.GetInterfaces()) != 1 {
		t.Errorf("network = %v", n)
	}
	if l.GetProcess().GetProcessCount().GetValue() != 3 || len(l.GetContainers()) != 1 {
		t.Errorf("stats = %v", l)
	}
	one, err := s.PodSandboxStats(t.Context(), &v1.PodSandboxStatsRequest{PodSandboxId: "s1"})
	if err != nil || !proto.Equal(one.GetStats().GetLinux().GetCpu(), l.GetCpu()) {
		t.Errorf("one pod: %v, %v", one, err)
	}
	if _, err := s.PodSandboxStats(t.Context(), &v1.PodSandboxStatsRequest{PodSandboxId: "x"}); codeOf(err) != codes.NotFound {
		t.Errorf("unknown pod: %v", err)
	}
}

// Every metric must be described, with as many labels as it has values.
func TestMetricsFitTheirDescriptors(t *testing.T) {
	s := paperServer(t, paperContainer{}, &paperImages{})
	d, err := s.ListMetricDescriptors(t.Context(), &v1.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, m := range d.GetDescriptors() {
		if keys[m.GetName()] != 0 {
			t.Errorf("%s is described twice", m.GetName())
		}
		keys[m.GetName()] = len(m.GetLabelKeys())
	}
	resp, err := s.ListPodSandboxMetrics(t.Context(), &v1.ListPodSandboxMetricsRequest{})
	if err != nil || len(resp.GetPodMetrics()) != 1 || len(resp.GetPodMetrics()[0].GetContainerMetrics()) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	pod := resp.GetPodMetrics()[0]
	got := map[string]uint64{}
	for _, m := range append(pod.GetMetrics(), pod.GetContainerMetrics()[0].GetMetrics()...) {
		if len(m.GetLabelValues()) != keys[m.GetName()] || m.GetTimestamp() == 0 {
			t.Errorf("%v has %d labels described", m, keys[m.GetName()])
		}
		got[m.GetName()+" "+strings.Join(m.GetLabelValues(), ",")] = m.GetValue().GetValue()
	}
	for key, want := range map[string]uint64{
		"container_cpu_usage_seconds_total ,s1,,,ns,pod,total":                    5,
		"container_cpu_usage_seconds_total run,run,busybox,run,ns,pod,total":      2,
		"container_fs_usage_bytes run,run,busybox,run,ns,pod,/dev/vda":            8192,
		"container_fs_limit_bytes run,run,busybox,run,ns,pod,/dev/vda":            1 << 30,
		"container_sockets run,run,busybox,run,ns,pod":                            2,
		"container_ulimits_soft run,run,busybox,run,ns,pod,max_open_files":        1024,
		"container_pressure_cpu_waiting_seconds_total run,run,busybox,run,ns,pod": 2,
		"container_network_receive_bytes_total ,s1,,,ns,pod,eth0":                 7,
		"container_memory_working_set_bytes run,run,busybox,run,ns,pod":           4096,
		"container_start_time_seconds run,run,busybox,run,ns,pod":                 uint64(s.store.ContainersOf("s1")[0].StartedAt.Unix()),
	} {
		if got[key] != want {
			t.Errorf("%s = %d, want %d", key, got[key], want)
		}
	}
}

func TestExecSync(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 1<<20)
	for name, test := range map[string]struct {
		req  *v1.ExecSyncRequest
		exit runtime.Exit
		err  error
		want codes.Code
	}{
		"exit code":   {req: &v1.ExecSyncRequest{ContainerId: "run", Cmd: []string{"x"}}, exit: runtime.Exit{Code: 7}},
		"no command":  {req: &v1.ExecSyncRequest{ContainerId: "run"}, want: codes.InvalidArgument},
		"negative":    {req: &v1.ExecSyncRequest{ContainerId: "run", Cmd: []string{"x"}, Timeout: -1}, want: codes.InvalidArgument},
		"timed out":   {req: &v1.ExecSyncRequest{ContainerId: "run", Cmd: []string{"x"}, Timeout: 2}, exit: runtime.Exit{Code: 137, TimedOut: true}, want: codes.DeadlineExceeded},
		"unknown":     {req: &v1.ExecSyncRequest{ContainerId: "run", Cmd: []string{"x"}}, exit: runtime.Exit{Code: -1, Unknown: true}, want: codes.Unavailable},
		"not running": {req: &v1.ExecSyncRequest{ContainerId: "done", Cmd: []string{"x"}}, want: codes.FailedPrecondition},
		"for ever":    {req: &v1.ExecSyncRequest{ContainerId: "run", Cmd: []string{"x"}, Timeout: 18446744074}, exit: runtime.Exit{Code: 7}},
		"not there":   {req: &v1.ExecSyncRequest{ContainerId: "nix", Cmd: []string{"x"}}, want: codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s := paperServer(t, paperContainer{exec: func(_ context.Context, e runtime.ExecConfig) (runtime.Exit, error) {
				if want := min(test.req.GetTimeout(), 31536000); e.Timeout != time.Duration(want)*time.Second || e.Streams.Stdin != nil {
					t.Errorf("exec config = %+v", e)
				}
				for range 17 {
					if n, err := e.Streams.Stdout.Write(big); n != len(big) || err != nil {
						t.Errorf("write = %d, %v", n, err)
					}
				}
				e.Streams.Stderr.Write([]byte("oops"))
				return test.exit, test.err
			}}, &paperImages{})
			resp, err := s.ExecSync(t.Context(), test.req)
			if codeOf(err) != test.want && (err != nil || test.want != codes.OK) {
				t.Fatalf("err = %v, want %s", err, test.want)
			}
			if err == nil && (len(resp.GetStdout()) != execOutput-4 || string(resp.GetStderr()) != "oops" || resp.GetExitCode() != 7) {
				t.Errorf("%d bytes of output, %q, code %d", len(resp.GetStdout()), resp.GetStderr(), resp.GetExitCode())
			}
		})
	}
}

func TestExecSyncAnswerFitsAMessage(t *testing.T) {
	for _, test := range [][4]int{ // lengths, and what is kept of them
		{10, 20, 10, 20},
		{execOutput, 0, execOutput, 0},
		{execOutput, 100, execOutput - 100, 100},
		{100, execOutput, 100, execOutput - 100},
		{execOutput, execOutput, execOutput / 2, execOutput / 2},
	} {
		a, b := share(make([]byte, test[0]), make([]byte, test[1]))
		if len(a) != test[2] || len(b) != test[3] {
			t.Errorf("%v: kept %d and %d", test, len(a), len(b))
		}
		if n := proto.Size(&v1.ExecSyncResponse{Stdout: a, Stderr: b, ExitCode: -1}); n > 16<<20 {
			t.Errorf("%v: the message has %d bytes", test, n)
		}
	}
}

func TestImages(t *testing.T) {
	id := digest.FromString("config")
	tag := "docker.io/library/busybox:latest"
	img := image.Image{ID: id, RepoTags: []string{tag}, Size: 9, Pinned: true}
	img.Config.Config.User = "1000:1000"
	images := &paperImages{images: []image.Image{img}}
	s := paperServer(t, paperContainer{}, images)
	ctx := t.Context()

	pulled, err := s.PullImage(ctx, &v1.PullImageRequest{Image: &v1.ImageSpec{Image: tag}, Auth: &v1.AuthConfig{}})
	if err != nil || pulled.GetImageRef() != id.String() || images.pulled != nil {
		t.Errorf("pull: %v, %v, auth %v", pulled, err, images.pulled)
	}
	auth := &v1.AuthConfig{Username: "u", Password: "p", ServerAddress: "r"}
	if _, err := s.PullImage(ctx, &v1.PullImageRequest{Image: &v1.ImageSpec{Image: tag}, Auth: auth}); err != nil ||
		*images.pulled != (image.Auth{Username: "u", Password: "p", ServerAddress: "r"}) {
		t.Errorf("pull with credentials: %v, %+v", err, images.pulled)
	}
	st, err := s.ImageStatus(ctx, &v1.ImageStatusRequest{Image: &v1.ImageSpec{Image: tag}, Verbose: true})
	if i := st.GetImage(); err != nil || i.GetId() != id.String() || i.GetUid().GetValue() != 1000 || !i.GetPinned() || i.GetSize() != 9 ||
		!strings.Contains(st.GetInfo()["info"], `"User":"1000:1000"`) {
		t.Errorf("status: %v, %v", st, err)
	}
	for ref, n := range map[string]int{"": 1, tag: 1, "nix": 0} {
		l, err := s.ListImages(ctx, &v1.ListImagesRequest{Filter: &v1.ImageFilter{Image: &v1.ImageSpec{Image: ref}}})
		if err != nil || len(l.GetImages()) != n {
			t.Errorf("list %q: %v, %v", ref, l, err)
		}
	}
	for range 2 {
		if _, err := s.RemoveImage(ctx, &v1.RemoveImageRequest{Image: &v1.ImageSpec{Image: tag}}); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if st, err := s.ImageStatus(ctx, &v1.ImageStatusRequest{Image: &v1.ImageSpec{Image: tag}}); err != nil || st.GetImage() != nil {
		t.Errorf("status after removal: %v, %v", st, err)
	}
	if _, err := s.ImageStatus(ctx, &v1.ImageStatusRequest{}); codeOf(err) != codes.InvalidArgument {
		t.Errorf("no reference: %v", err)
	}
	fs, err := s.ImageFsInfo(ctx, &v1.ImageFsInfoRequest{})
	if err != nil || fs.GetImageFilesystems()[0].GetUsedBytes().GetValue() != 100 || fs.GetContainerFilesystems()[0].GetFsId().GetMountpoint() != s.opts.ImageDir {
		t.Errorf("fs info: %v, %v", fs, err)
	}
}

func TestPrometheus(t *testing.T) {
	s := paperServer(t, paperContainer{}, &paperImages{})
	m := NewMetrics("v9")
	m.Watch(s)
	m.Observe("RunPodSandbox", 30*time.Millisecond, codes.NotFound)
	m.Observe("PullImage", 90*time.Second, codes.Unavailable)
	table := ops.NewTable(slog.New(slog.DiscardHandler), m.ObserveStep)
	_, err := ops.Do(t.Context(), table, ops.Spec{Budget: time.Minute}, func(ctx context.Context) (int, error) {
		return 0, flow.Run(ctx, "make", flow.Step{Name: "fail", Do: func(context.Context) error { return errors.New("broken") }})
	})
	if err == nil {
		t.Fatal("a step that fails succeeds")
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`cricket_call_duration_seconds_bucket{code="NotFound",method="RunPodSandbox",le="0.05"} 1`,
		`cricket_step_duration_seconds_count{flow="make",ok="false",step="fail"} 1`,
		`cricket_containers{state="CONTAINER_RUNNING"} 2`,
		`cricket_sandboxes{state="SANDBOX_READY"} 1`,
		`cricket_build_info{version="v9"} 1`,
		`cricket_image_pull_duration_seconds_bucket{code="Unavailable",le="120"} 1`,
		`cricket_image_store_bytes 100`,
	} {
		if !strings.Contains(rec.Body.String(), line) {
			t.Errorf("%s is missing", line)
		}
	}
	problems, err := promlint.New(rec.Body).Lint()
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "cricket_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if err != nil {
		t.Errorf("parse the metrics: %v", err)
	}
}
