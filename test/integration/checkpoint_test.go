package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
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
	drawn    []string
}

// pullSaved makes an image known to a node that is like most: a tree of several layers.
func (n *Node) pullSaved() string {
	n.t.Helper()
	const name = "example.com/saved:1"
	layer := tarOf(n.t, file("layered", []byte("second layer")))
	if err := n.Registry.Add(n.t.TempDir(), name, n.on(images.Busybox, layer)); err != nil {
		n.t.Fatal(err)
	}
	n.Pull(name)
	return name
}

func (n *Node) saver() *saver {
	s := &saver{Node: n, p: n.PodConfig(), settings: filepath.Join(n.Paths.Dir, fmt.Sprintf("settings-%d", serial.Add(1)))}
	n.write(s.settings, "first")
	s.c = n.ContainerConfig("sh", "-c", counter)
	s.c.Image.Image = n.pullSaved()
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
	if log, err := os.ReadFile(s.Paths.Log); err == nil {
		s.t.Log(pausedLine.FindAllString(string(log), -1))
	}
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

// pausedLine is what the daemon's log says of a pause.
var pausedLine = regexp.MustCompile(`(?m)msg="machine was paused".*$`)

func (s *saver) checkpoint(change func(*cri.CheckpointPodRequest), dir string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), saveTime)
	defer cancel()
	r := &cri.CheckpointPodRequest{PodSandboxId: s.pod, OutputPath: dir, ContainerIds: []string{s.id}}
	change(r)
	_, err := s.Runtime.CheckpointPod(ctx, r)
	return err
}

// request restores the pod under another name, on this node.
func (s *saver) request(n *Node, dir string) *cri.RestorePodRequest {
	c, _ := proto.Clone(s.c).(*cri.ContainerConfig)
	settings := filepath.Join(n.Paths.Dir, fmt.Sprintf("settings-%d", serial.Add(1)))
	n.write(settings, "second")
	c.Mounts[0].HostPath = settings
	c.Image.Image = n.pullSaved()
	return &cri.RestorePodRequest{
		CheckpointPath: dir, Config: n.PodConfig(), RuntimeHandler: "vm", ContainerConfigs: []*cri.ContainerConfig{c},
	}
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
	r := s.request(n, dir)
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
	random := n.Exec(id, "sh", "-c", "head -c 16 /dev/urandom | md5sum")
	if slices.Contains(s.drawn, random) {
		t.Errorf("two pods of one checkpoint draw the same random bytes: %s", random)
	}
	s.drawn = append(s.drawn, random)
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
		t.Run("daemon dies meanwhile", func(t *testing.T) { n.For(t).daemonDiesMeanwhile(s) })
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
	r := s.request(n, dir)
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

// daemonDiesMeanwhile kills the daemon while a machine is paused and its memory is written:
// the next one lets the pod go on.
func (n *Node) daemonDiesMeanwhile(s *saver) {
	t := n.t
	out := t.TempDir()
	saved := make(chan error, 1)
	go func() { saved <- s.checkpoint(func(*cri.CheckpointPodRequest) {}, out) }()
	Within(t, settle, "the memory is being written", func() bool {
		st, err := os.Stat(filepath.Join(out, "machine.state"))
		return err == nil && st.Size() > 1<<20
	})
	n.KillDaemon()
	if err := <-saved; err == nil {
		t.Error("the checkpoint of a daemon that was killed succeeded")
	}
	n.StartDaemon()
	was := n.count(s.id)
	Within(t, settle, "the pod goes on counting", func() bool { return n.count(s.id) > was+5 })
}
