package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// saveTime bounds a checkpoint and a restore where machines are emulated.
const saveTime = 2 * time.Minute

// counter counts in its memory, in its writable layer and in its log.
const counter = `i=0; while true; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; echo line $i; usleep 20000; done`

// saver is a pod whose checkpoints are restored.
type saver struct {
	*Node
	pod, id  string
	p        *cri.PodSandboxConfig
	c        *cri.ContainerConfig
	settings string // a file of the host that the container reads
}

func (n *Node) saver() *saver {
	s := &saver{Node: n, p: n.PodConfig(), settings: filepath.Join(n.Paths.Dir, fmt.Sprintf("settings-%d", serial.Add(1)))}
	n.write(s.settings, "first")
	s.c = n.ContainerConfig("sh", "-c", counter)
	s.c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 640 << 20} // the machine grows
	s.c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("1")}}
	s.c.Mounts = []*cri.Mount{{HostPath: s.settings, ContainerPath: "/settings", Readonly: true}}
	s.pod = n.RunPod(s.p)
	s.id = n.Started(s.pod, s.p, s.c)
	Within(n.t, settle, "the container counts", func() bool { return s.count(s.id) > 5 })
	return s
}

func (n *Node) write(path, text string) {
	n.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func (n *Node) count(id string) int {
	n.t.Helper()
	i, err := strconv.Atoi(strings.TrimSpace(n.Exec(id, "sh", "-c", "cat /count 2>/dev/null || echo 0")))
	if err != nil {
		n.t.Fatal(err)
	}
	return i
}

// save makes a checkpoint and says what the count was before and after.
func (s *saver) save(dir string) (from, to int) {
	s.t.Helper()
	from = s.count(s.id)
	began := time.Now()
	if err := s.checkpoint(func(*cri.CheckpointPodRequest) {}, dir); err != nil {
		s.t.Fatalf("checkpoint: %v", err)
	}
	s.t.Logf("checkpoint took %s", time.Since(began).Round(time.Millisecond))
	to = s.count(s.id)
	files, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		i, err := f.Info()
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Logf("%s: %d bytes", f.Name(), i.Size())
	}
	return from, to
}

func (s *saver) checkpoint(change func(*cri.CheckpointPodRequest), dir string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), saveTime)
	defer cancel()
	r := &cri.CheckpointPodRequest{PodSandboxId: s.pod, OutputPath: dir, ContainerIds: []string{s.id}}
	change(r)
	_, err := s.Runtime.CheckpointPod(ctx, r)
	return err
}

// request restores the pod under another name, on this node.
func (s *saver) request(n *Node, dir string) (*cri.RestorePodRequest, string) {
	c, _ := proto.Clone(s.c).(*cri.ContainerConfig)
	settings := filepath.Join(n.Paths.Dir, fmt.Sprintf("settings-%d", serial.Add(1)))
	n.write(settings, "second")
	c.Mounts[0].HostPath = settings
	return &cri.RestorePodRequest{
		CheckpointPath: dir, Config: n.PodConfig(), RuntimeHandler: "vm", ContainerConfigs: []*cri.ContainerConfig{c},
	}, settings
}

func (n *Node) restore(r *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), saveTime)
	defer cancel()
	return n.Runtime.RestorePod(ctx, r)
}

// restored restores a pod and holds it to what it was: between from and to.
func (s *saver) restored(n *Node, dir string, from, to int) {
	t := n.t
	t.Helper()
	r, _ := s.request(n, dir)
	began := time.Now()
	answer, err := n.restore(r)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	t.Logf("restore took %s", time.Since(began).Round(time.Millisecond))
	p, c := r.GetConfig(), r.GetContainerConfigs()[0]
	if len(answer.GetRestoredContainers()) != 1 || answer.GetRestoredContainers()[0].GetName() != c.GetMetadata().GetName() {
		t.Fatalf("restored containers are %v", answer.GetRestoredContainers())
	}
	id := answer.GetRestoredContainers()[0].GetContainerId()
	time.Sleep(500 * time.Millisecond)
	if state := n.Status(id).GetState(); state != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("the restored container is %s, want CREATED", state)
	}
	if log := n.Log(p, c); log != "" {
		t.Errorf("before it was started the restored container has logged %q", log)
	}
	n.StartContainer(id)
	Within(t, settle, "the restored container logs", func() bool { return strings.Count(n.Log(p, c), "\n") > 3 })
	lines := countedLine.FindAllStringSubmatch(n.Log(p, c), -1)
	first, _ := strconv.Atoi(lines[0][2])
	for i, l := range lines {
		if l[2] != strconv.Itoa(first+i) {
			t.Errorf("line %d of the restored container is %q, the first %d", i, l[0], first)
		}
	}
	if first < from || first > to+1 {
		t.Errorf("the restored container goes on with %d, the checkpoint was made between %d and %d", first, from, to)
	}
	if got := n.count(id); got < first {
		t.Errorf("its file has %d, less than %d", got, first)
	}
	n.ownSelf(answer.GetPodSandboxId(), id, p)
	if s := n.Status(id); s.GetState() != cri.ContainerState_CONTAINER_RUNNING || time.Since(time.Unix(0, s.GetStartedAt())) > time.Minute {
		t.Errorf("the started container is %v", s)
	}
	if _, err := n.Runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Errorf("stop: %v", err)
	}
	if s := n.Status(id); s.GetExitCode() != 137 {
		t.Errorf("exit code %d of a killed container", s.GetExitCode())
	}
	n.removePod(t, answer.GetPodSandboxId())
}

// ownSelf holds a restored pod to be one of its own: time, name, address and volumes.
func (n *Node) ownSelf(pod, id string, p *cri.PodSandboxConfig) {
	t := n.t
	t.Helper()
	before := time.Now().Unix()
	seconds, err := strconv.ParseInt(strings.TrimSpace(n.Exec(id, "date", "+%s")), 10, 64)
	if err != nil || seconds < before-1 || seconds > time.Now().Unix()+1 {
		t.Errorf("its clock says %d at %d (%v)", seconds, before, err)
	}
	status, err := n.Runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	ip := status.GetStatus().GetNetwork().GetIp()
	if out := n.Exec(id, "ip", "-4", "addr", "show", "eth0"); ip == "" || !strings.Contains(out, " "+ip+"/") {
		t.Errorf("its address is %q, its interface has %q", ip, out)
	}
	Within(t, settle, "it reads the new pod's file", func() bool { return n.Exec(id, "cat", "/settings") == "second" })
}

// TestVirtualCheckpoint saves a pod that goes on counting, and has another one go on from
// what was saved, on its node and on one that has nothing in common with it but the image.
func TestVirtualCheckpoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var s *saver
	var from, to int
	t.Run("same node", func(t *testing.T) {
		n := startVirtual(t)
		s = n.saver()
		from, to = s.save(dir)
		Within(t, settle, "the pod goes on counting", func() bool { return s.count(s.id) > to+5 })
		s.restored(n, dir, from, to)
		t.Run("again", func(t *testing.T) { s.restored(n.For(t), dir, from, to) })
		t.Run("daemon ends in between", func(t *testing.T) { n.For(t).restoredAcrossDaemons(s, dir) })
		t.Run("commands meanwhile", func(t *testing.T) { n.For(t).commandsMeanwhile(s) })
		t.Run("refused", func(t *testing.T) { n.For(t).refusesCheckpoints(s, dir) })
		if got := s.count(s.id); got <= to {
			t.Errorf("the original counts %d, after %d", got, to)
		}
	})
	if t.Failed() || s == nil {
		return
	}
	t.Run("other node", func(t *testing.T) { s.restored(startVirtual(t), dir, from, to) })
}

// restoredAcrossDaemons has a new daemon start what the one before restored.
func (n *Node) restoredAcrossDaemons(s *saver, dir string) {
	t := n.t
	r, _ := s.request(n, dir)
	answer, err := n.restore(r)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	id := answer.GetRestoredContainers()[0].GetContainerId()
	n.RestartDaemon()
	if state := n.Status(id).GetState(); state != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("after a restart of the daemon it is %s, want CREATED", state)
	}
	n.StartContainer(id)
	was := n.count(id)
	Within(t, settle, "it counts", func() bool { return n.count(id) > was })
	n.removePod(t, answer.GetPodSandboxId())
}

// commandsMeanwhile has commands run in a container while it is saved: they wait.
func (n *Node) commandsMeanwhile(s *saver) {
	t := n.t
	out := t.TempDir()
	saved := make(chan error, 1)
	go func() { saved <- s.checkpoint(func(*cri.CheckpointPodRequest) {}, out) }()
	for done, i := false, 0; !done; i++ {
		if got := n.Exec(s.id, "echo", strconv.Itoa(i)); got != fmt.Sprintln(i) {
			t.Errorf("command %d says %q", i, got)
		}
		select {
		case err := <-saved:
			done = true
			if err != nil {
				t.Errorf("checkpoint: %v", err)
			}
		default:
		}
	}
}

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

// deadlinePasses ends a checkpoint's time while it is made.
func (n *Node) deadlinePasses(s *saver) {
	t := n.t
	for _, limit := range []time.Duration{20 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond} {
		out := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		_, err := n.Runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: s.pod, OutputPath: out, ContainerIds: []string{s.id}})
		cancel()
		WantCode(t, err, codes.DeadlineExceeded)
		Within(t, settle, "nothing is left of a checkpoint that ran out of time", func() bool {
			left, err := os.ReadDir(out)
			return err == nil && len(left) == 0
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
	pods := n.pods()
	for name, test := range map[string]struct {
		change func(request)
		want   codes.Code
	}{
		"handler":    {func(r request) { r.RuntimeHandler = "none" }, codes.InvalidArgument},
		"kernel":     {func(r request) { r.RuntimeHandler = "" }, codes.Unimplemented},
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
		r, _ := s.request(n, dir)
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
		r, _ := s.request(n, filepath.Join(damaged, "c"))
		_, err := n.restore(r)
		WantCode(t, err, codes.DataLoss)
	}
	r, _ := s.request(n, dir)
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
