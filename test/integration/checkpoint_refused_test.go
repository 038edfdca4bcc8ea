package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// refusesCheckpoints asks for what cannot be; the pod counts on, and nothing is left.
func (n *Node) refusesCheckpoints(s *saver, dir string) {
	t := n.t
	type save = *cri.CheckpointPodRequest
	for name, test := range map[string]struct {
		change func(save)
		want   codes.Code
	}{
		"pod":           {func(r save) { r.PodSandboxId = "none" }, codes.NotFound},
		"no containers": {func(r save) { r.ContainerIds = nil }, codes.InvalidArgument},
		"twice":         {func(r save) { r.ContainerIds = []string{s.id, s.id} }, codes.InvalidArgument},
		"none such":     {func(r save) { r.ContainerIds = []string{"none"} }, codes.NotFound},
		"relative":      {func(r save) { r.OutputPath = "x" }, codes.InvalidArgument},
		"not empty":     {func(r save) { r.OutputPath = dir }, codes.FailedPrecondition},
		"not there":     {func(r save) { r.OutputPath = dir + "/none" }, codes.FailedPrecondition},
		"options":       {func(r save) { r.Options = map[string]string{"a": "b"} }, codes.InvalidArgument},
	} {
		out := t.TempDir()
		err := s.checkpoint(func(r save) { test.change(r) }, out)
		if WantCode(t, err, test.want); t.Failed() {
			t.Errorf("checkpoint: %s", name)
		}
		n.nothingIn(out)
	}
	_, err := n.Runtime.CheckpointPod(t.Context(), &cri.CheckpointPodRequest{PodSandboxId: s.pod, OutputPath: t.TempDir(), ContainerIds: []string{s.id}})
	WantCode(t, err, codes.InvalidArgument) // no deadline
	n.deadlinePasses(s)
	n.refusesShared()
	n.refusesRestores(s, dir)
}

func (n *Node) nothingIn(dir string) {
	n.t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		n.t.Errorf("left in the directory: %v, %v", left, err)
	}
}

// deadlinePasses ends a checkpoint's time while it is made. The first time is too short on
// every machine. A longer one may do: then the checkpoint is whole, whatever the answer.
func (n *Node) deadlinePasses(s *saver) {
	t := n.t
	for i, limit := range []time.Duration{20 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond} {
		out := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := n.Runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: s.pod, OutputPath: out, ContainerIds: []string{s.id}})
		cancel()
		if i == 0 || err != nil {
			WantCode(t, err, codes.DeadlineExceeded)
		}
		Within(t, settle, fmt.Sprintf("%s in, there is a whole checkpoint or, as it has to be after an error, none", limit), func() bool {
			left, failed := os.ReadDir(out)
			_, whole := os.Stat(filepath.Join(out, "checkpoint.json"))
			return failed == nil && (whole == nil && i > 0 || err != nil && len(left) == 0)
		})
		was := s.count(s.id)
		Within(t, settle, "the pod goes on counting", func() bool { return n.count(s.id) > was })
	}
}

// refusesShared asks for a pod with a volume that its machine shares by 9p.
func (n *Node) refusesShared() {
	t := n.t
	host := filepath.Join(n.Paths.Dir, "shared")
	if err := os.MkdirAll(host, 0o755); err != nil {
		t.Fatal(err)
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sleep", "3600")
	c.Mounts = []*cri.Mount{{HostPath: host, ContainerPath: "/shared"}}
	id := n.Started(pod, p, c)
	out := t.TempDir()
	err := (&saver{Node: n, pod: pod, id: id}).checkpoint(func(*cri.CheckpointPodRequest) {}, out)
	WantCode(t, err, codes.FailedPrecondition)
	if err == nil || !strings.Contains(err.Error(), host) {
		t.Errorf("the refusal does not name the volume %s: %v", host, err)
	}
	n.nothingIn(out)
	n.removePod(t, pod)
}

// refusesRestores asks for restores that cannot be.
func (n *Node) refusesRestores(s *saver, dir string) {
	t := n.t
	type request = *cri.RestorePodRequest
	first := func(r request) *cri.ContainerConfig { return r.GetContainerConfigs()[0] }
	pods, kernel := n.pods(), n.handlers(false)[0]
	for name, test := range map[string]struct {
		change func(request)
		want   codes.Code
	}{
		"handler":    {func(r request) { r.RuntimeHandler = "none" }, codes.InvalidArgument},
		"kernel":     {func(r request) { r.RuntimeHandler = kernel }, codes.Unimplemented},
		"relative":   {func(r request) { r.CheckpointPath = "x" }, codes.InvalidArgument},
		"empty":      {func(r request) { r.CheckpointPath = t.TempDir() }, codes.FailedPrecondition},
		"options":    {func(r request) { r.Options = map[string]string{"a": "b"} }, codes.InvalidArgument},
		"none":       {func(r request) { r.ContainerConfigs = nil }, codes.InvalidArgument},
		"twice":      {func(r request) { r.ContainerConfigs = append(r.ContainerConfigs, first(r)) }, codes.InvalidArgument},
		"name":       {func(r request) { first(r).Metadata.Name = "other" }, codes.FailedPrecondition},
		"image":      {func(r request) { first(r).Image.Image = "example.com/none:1" }, codes.NotFound},
		"command":    {func(r request) { first(r).Command = []string{"sleep"} }, codes.FailedPrecondition},
		"env":        {func(r request) { first(r).Envs[0].Value = []byte("2") }, codes.FailedPrecondition},
		"cwd":        {func(r request) { first(r).WorkingDir = "/tmp" }, codes.FailedPrecondition},
		"user":       {func(r request) { user(first(r), 7) }, codes.FailedPrecondition},
		"mounts":     {func(r request) { first(r).Mounts = nil }, codes.FailedPrecondition},
		"log":        {func(r request) { first(r).LogPath = "" }, codes.FailedPrecondition},
		"pid":        {func(r request) { r.Config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD }, codes.FailedPrecondition},
		"taken name": {func(r request) { r.Config = s.p }, codes.AlreadyExists},
	} {
		r := s.request(n, dir)
		test.change(r)
		_, err := n.restore(r)
		if WantCode(t, err, test.want); t.Failed() {
			t.Errorf("restore: %s", name)
		}
	}
	for _, f := range []string{"machine.state", "machine-rw0.disk", "machine.json", "checkpoint.json"} {
		damaged := t.TempDir()
		if err := os.CopyFS(filepath.Join(damaged, "c"), os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(damaged, "c", f)
		if st, err := os.Stat(path); err != nil || os.Truncate(path, st.Size()-9) != nil {
			t.Fatal(err)
		}
		r := s.request(n, filepath.Join(damaged, "c"))
		_, err := n.restore(r)
		WantCode(t, err, codes.DataLoss)
	}
	r := s.request(n, dir)
	_, err := n.Runtime.RestorePod(t.Context(), r)
	WantCode(t, err, codes.InvalidArgument) // no deadline
	if now := n.pods(); now != pods {
		t.Errorf("there are %d pods, were %d", now, pods)
	}
}

func user(c *cri.ContainerConfig, id int64) {
	c.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: id}}
}

func (n *Node) pods() int {
	n.t.Helper()
	r, err := n.Runtime.ListPodSandbox(n.t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	return len(r.GetItems())
}
