package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/images"
)

// checkpoints is a node that can make checkpoints, a pod, and a container that counts.
type checkpoints struct {
	*Node
	dir     string // where archives go
	config  *cri.PodSandboxConfig
	pod, id string
}

// counting writes a number into a file five times a second, in its own file system.
const counting = "rm /bin/vi; mkdir /kept; echo text > /kept/file; i=0; while sleep 0.2; do i=$((i+1)); echo $i > /count; echo line $i; done"

// secret is in the memory of the container's first process.
const secret = "the-memory-of-a-process"

// startCheckpoints starts a node with runc and a CRIU.
func startCheckpoints(t *testing.T, program string) *checkpoints {
	t.Helper()
	text := fmt.Sprintf("default_runtime = \"runc\"\n[runtimes.runc]\npath = %q\n[checkpoint]\ncriu = %q\n", Tool(tools.Runc().Name), program)
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := &checkpoints{Node: Start(t, "--config", file), dir: t.TempDir()}
	c.Pull(images.Busybox)
	c.config = c.PodConfig()
	c.pod = c.RunPod(c.config)
	c.id = c.count(c.pod, c.config, func(*cri.ContainerConfig) {})
	return c
}

// count runs a container that counts, and waits until it does.
func (c *checkpoints) count(pod string, p *cri.PodSandboxConfig, change func(*cri.ContainerConfig)) string {
	c.t.Helper()
	config := c.ContainerConfig("sh", "-c", counting)
	config.Envs = []*cri.KeyValue{{Key: "SECRET", Value: []byte(secret)}}
	change(config)
	id := c.Create(pod, p, config)
	c.StartContainer(id)
	c.counts(id)
	return id
}

// counter is what the container has come to, -1 if it has not begun.
func (c *checkpoints) counter(id string) int {
	r, err := c.Runtime.ExecSync(c.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/count"}, Timeout: 30})
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(r.GetStdout())))
	if err != nil {
		return -1
	}
	return n
}

// counts fails the test unless the container goes on.
func (c *checkpoints) counts(id string) {
	c.t.Helper()
	began := -1
	Within(c.t, 30*time.Second, "the container counts on", func() bool {
		n := c.counter(id)
		if began < 0 {
			began = n
			return false
		}
		return n > began
	})
}

// make asks for a checkpoint.
func (c *checkpoints) make(id, location string, timeout int64) error {
	_, err := c.Runtime.CheckpointContainer(c.t.Context(), &cri.CheckpointContainerRequest{ContainerId: id, Location: location, Timeout: timeout})
	return err
}

// nothing fails the test if there is anything of a checkpoint but the archives named.
func (c *checkpoints) nothing(archives ...string) {
	c.t.Helper()
	for dir, want := range map[string][]string{c.dir: archives, filepath.Join(c.Paths.Root, "checkpoints"): nil} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			c.t.Error(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !slices.Equal(names, want) {
			c.t.Errorf("%s holds %q, want %q", dir, names, want)
		}
	}
}

// TestCheckpointContainer: CRIU really dumps the container, which goes on, and the archive
// holds what others put into theirs.
func TestCheckpointContainer(t *testing.T) {
	c := startCheckpoints(t, os.Getenv(newCRIUEnv))
	pid := c.ProcessOf(c.id)
	archive := filepath.Join(c.dir, "checkpoint.tar")
	if err := c.make(c.id, archive, 60); err != nil {
		t.Fatal(err)
	}
	c.nothing("checkpoint.tar")
	c.counts(c.id)
	if now := c.ProcessOf(c.id); now != pid {
		t.Errorf("the container's process is %d, was %d", now, pid)
	}
	info, err := os.Stat(archive)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("archive: %v, %v", info.Mode(), err)
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	checkArchive(t, members(t, f), c.id)

	// Again, in place of the first, with the default timeout.
	if err := c.make(c.id, archive, 0); err != nil {
		t.Fatal(err)
	}
	again, err := os.Stat(archive)
	if err != nil || os.SameFile(info, again) {
		t.Errorf("the archive is not a new file: %v", err)
	}
	c.counts(c.id)
	// What was on its way to the log meanwhile is there, once.
	log, err := os.ReadFile(c.Status(c.id).GetLogPath())
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(log)), "\n") {
		if want := fmt.Sprintf(" stdout F line %d", i+1); !strings.HasSuffix(line, want) {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}
	checkSpecial(t, c)
}

// checkSpecial makes checkpoints of containers that are not like others. One with a TCP
// connection cannot be dumped, and goes on, connected.
func checkSpecial(t *testing.T, c *checkpoints) {
	host := c.PodConfig()
	host.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	mapped := c.PodConfig()
	mapped.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Uids: mapping(1_400_000), Gids: mapping(1_400_000)}
	joined := c.PodConfig()
	joined.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	for name, config := range map[string]*cri.PodSandboxConfig{"terminal": c.config, "host network": host, "user namespace": mapped, "pid namespace of the pod": joined} {
		pod := c.pod
		if config != c.config {
			pod = c.RunPod(config)
		}
		id := c.count(pod, config, func(cc *cri.ContainerConfig) {
			cc.Tty = name == "terminal"
			cc.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: config.GetLinux().GetSecurityContext().GetNamespaceOptions()}
		})
		if err := c.make(id, filepath.Join(c.dir, "other.tar"), 60); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.counts(id)
	}
	id := c.count(c.pod, c.config, func(cc *cri.ContainerConfig) {
		cc.Command[2] = "nc -l -p 7777 127.0.0.1 >/dev/null & sleep 1; (sleep 600 | nc 127.0.0.1 7777) & sleep 1; " + counting
	})
	err := c.make(id, filepath.Join(c.dir, "connected.tar"), 60)
	WantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(fmt.Sprint(err), "tcp") {
		t.Errorf("with a connection: %v", err)
	}
	c.counts(id)
	c.nothing("checkpoint.tar", "other.tar")
}

// members reads a tar file: contents by name.
func members(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if all[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

func checkArchive(t *testing.T, all map[string][]byte, id string) {
	t.Helper()
	for _, name := range []string{"config.dump", "spec.dump", "status.dump", "status", "dump.log", "stats-dump", "container.log", "checkpoint/inventory.img", "checkpoint/pstree.img", "rootfs-diff.tar"} {
		if len(all[name]) == 0 {
			t.Errorf("the archive has no %s; it has %q", name, slices.Sorted(maps.Keys(all)))
		}
	}
	var config struct{ ID, Name, RootfsImageName, Runtime string }
	if err := json.Unmarshal(all["config.dump"], &config); err != nil || config.ID != id || config.RootfsImageName == "" || config.Runtime != "runc" {
		t.Errorf("config.dump: %+v, %v", config, err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(all["spec.dump"], &spec); err != nil || spec.Process == nil || !slices.Contains(spec.Process.Args, counting) {
		t.Errorf("spec.dump: %+v, %v", spec.Process, err)
	}
	if name := spec.Annotations["io.kubernetes.cri.container-name"]; name != config.Name {
		t.Errorf("spec.dump names the container %q, config.dump %q", name, config.Name)
	}
	found := false
	for name, data := range all {
		found = found || strings.HasPrefix(name, "checkpoint/pages-") && bytes.Contains(data, []byte(secret))
	}
	if !found {
		t.Error("the archive does not hold the memory of the container's process")
	}
	if !strings.Contains(string(all["container.log"]), "stdout F line 1\n") {
		t.Errorf("container.log: %.200q", all["container.log"])
	}
	layer := members(t, bytes.NewReader(all["rootfs-diff.tar"]))
	if string(layer["kept/file"]) != "text\n" || layer["bin/.wh.vi"] == nil || len(layer["count"]) == 0 {
		t.Errorf("rootfs-diff.tar: %q", slices.Sorted(maps.Keys(layer)))
	}
	// The processes stood still: what they had logged is what they had counted, or one more.
	logged := strings.Count(string(all["container.log"]), "stdout F line ")
	counted, err := strconv.Atoi(strings.TrimSpace(string(layer["count"])))
	if err != nil || logged < counted-1 {
		t.Errorf("counted %d, logged %d", counted, logged)
	}
}

// TestCheckpointContainerRefusals: what cannot be is refused by name, and leaves nothing.
func TestCheckpointContainerRefusals(t *testing.T) {
	c := startCheckpoints(t, os.Getenv(newCRIUEnv))
	good := filepath.Join(c.dir, "checkpoint.tar")
	created := c.Create(c.pod, c.config, c.ContainerConfig("sleep", "60"))
	link := filepath.Join(c.t.TempDir(), "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]struct {
		id, location string
		timeout      int64
		code         codes.Code
		text         string
	}{
		"no container":     {"none", good, 0, codes.NotFound, ""},
		"not running":      {created, good, 0, codes.FailedPrecondition, "CREATED"},
		"no location":      {c.id, "", 0, codes.InvalidArgument, "location"},
		"relative":         {c.id, "checkpoint.tar", 0, codes.InvalidArgument, "location"},
		"directory":        {c.id, c.dir, 0, codes.InvalidArgument, "location"},
		"link":             {c.id, link, 0, codes.InvalidArgument, "location"},
		"no directory":     {c.id, c.dir + "/none/checkpoint.tar", 0, codes.InvalidArgument, "location"},
		"negative timeout": {c.id, good, -1, codes.InvalidArgument, "timeout"},
		"huge timeout":     {c.id, good, 1 << 60, codes.InvalidArgument, "timeout"},
	} {
		err := c.make(r.id, r.location, r.timeout)
		WantCode(t, err, r.code)
		if err == nil || !strings.Contains(err.Error(), r.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.nothing()
	r, err := c.Runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: c.PodConfig(), RuntimeHandler: "crun"})
	if err != nil {
		t.Fatal(err)
	}
	other := c.Create(r.GetPodSandboxId(), c.config, c.ContainerConfig("sleep", "60"))
	c.StartContainer(other)
	if err := c.make(other, good, 0); err != nil { // Debian 12's crun is built without CRIU
		WantCode(t, err, codes.FailedPrecondition)
		if !strings.Contains(err.Error(), "crun") {
			t.Errorf("a runtime without CRIU: %v", err)
		}
		c.nothing()
	}
}
