package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/criu"
	"github.com/cricket-cri/cricket/test/images"
)

// instead is a CRIU that runs a script first.
func instead(t *testing.T, script string) string {
	t.Helper()
	program, err := criu.Instead(t.TempDir(), os.Getenv(newCRIUEnv), script)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// TestCheckpointContainerOldCRIU: where CRIU's own check fails, the refusal is what it says;
// where it does not, there is a checkpoint. Debian 12's fails from Linux 6.13 on.
func TestCheckpointContainerOldCRIU(t *testing.T) {
	old := os.Getenv(oldCRIUEnv)
	out, failed := exec.Command(old, "check").CombinedOutput()
	c := startCheckpoints(t, old)
	err := c.make(c.id, filepath.Join(c.dir, "checkpoint.tar"), 60)
	if failed == nil {
		if err != nil {
			t.Fatalf("its check says %q, and the checkpoint fails: %v", out, err)
		}
		return
	}
	WantCode(t, err, codes.FailedPrecondition)
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if !strings.Contains(err.Error(), line) {
		t.Errorf("the refusal is %v; CRIU says %q", err, out)
	}
	c.counts(c.id)
	c.nothing()
}

// TestCheckpointContainerFailures: whatever goes wrong with CRIU, the container goes on and
// nothing is left.
func TestCheckpointContainerFailures(t *testing.T) {
	applies(t)
	for name, f := range map[string]struct {
		script string
		code   codes.Code
		text   string
	}{
		"check": {`[ "$1" = check ] && { echo "Error (here:1): no such luck" >&2; exit 1; }`, codes.FailedPrecondition, "no such luck"},
		"dump":  {`[ "$1" = swrk ] && exit 1`, codes.Internal, ""},
		"time":  {`[ "$1" = swrk ] && sleep 1234`, codes.DeadlineExceeded, "3s"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCheckpoints(t, instead(t, f.script))
			began := time.Now()
			err := c.make(c.id, filepath.Join(c.dir, "checkpoint.tar"), 3)
			WantCode(t, err, f.code)
			if err == nil || !strings.Contains(err.Error(), f.text) {
				t.Errorf("the answer is %v, want %q in it", err, f.text)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("the answer took %s", took)
			}
			c.counts(c.id)
			c.nothing()
			if out, err := exec.Command("pgrep", "-f", "sleep 1234").Output(); err == nil {
				t.Errorf("processes are left: %s", out)
			}
		})
	}
}

// TestCheckpointContainerKilled: the container goes on when the daemon, or the monitor, is
// killed in the middle, and the next daemon clears up.
func TestCheckpointContainerKilled(t *testing.T) {
	applies(t)
	for name, kill := range map[string]func(*Node){"daemon": (*Node).KillDaemon, "monitor": (*Node).KillMonitor} {
		t.Run(name, func(t *testing.T) {
			c := startCheckpoints(t, instead(t, `[ "$1" = swrk ] && sleep 30 && exit 1`))
			done := make(chan error, 1)
			go func() {
				_, err := c.Runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{
					ContainerId: c.id, Location: filepath.Join(c.dir, "checkpoint.tar"), Timeout: 60,
				})
				done <- err
			}()
			path := c.Status(c.id).GetLogPath()
			log := func() string {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Error(err)
				}
				return string(data)
			}
			Within(t, 20*time.Second, "the container stands still", func() bool {
				before := log()
				time.Sleep(time.Second)
				return log() == before
			})
			kill(c.Node)
			if err := <-done; err == nil {
				t.Error("a checkpoint in the middle of which something was killed has succeeded")
			}
			before := log()
			Within(t, 15*time.Second, "the container goes on", func() bool { return log() != before })
			if name == "daemon" {
				c.StartDaemon()
			}
			c.counts(c.id)
			Within(t, 15*time.Second, "all is cleared up", func() bool {
				left, _ := filepath.Glob(filepath.Join(c.Paths.Root, "checkpoints", "*"))
				return len(left) == 0
			})
			c.nothing()
		})
	}
}

// TestCheckpointImages: what is a checkpoint and not an image is not taken for one.
func TestCheckpointImages(t *testing.T) {
	n := Start(t)
	base, err := n.Set.Image(images.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	labelled, err := mutate.Config(base, v1.Config{Cmd: []string{"sleep", "60"}, Labels: map[string]string{"org.criu.checkpoint.container.name": "c"}})
	if err != nil {
		t.Fatal(err)
	}
	// Each has a configuration of its own: an image that somebody has brought without the
	// mark stays an image.
	annotated := func(key string) v1.Image {
		img, err := mutate.Config(base, v1.Config{Cmd: []string{"sleep", "60"}, Env: []string{"KEY=" + key}})
		if err != nil {
			t.Fatal(err)
		}
		return mutate.Annotations(img, map[string]string{key: "c"}).(v1.Image)
	}
	p := n.PodConfig()
	pod := n.RunPod(p)
	for name, img := range map[string]v1.Image{
		"example.com/checkpoint/podman:1": annotated("org.criu.checkpoint.container.name"),
		"example.com/checkpoint/cri-o:1":  annotated("io.kubernetes.cri-o.annotations.checkpoint.name"),
		"example.com/checkpoint/label:1":  labelled,
	} {
		if err := n.Registry.Add(t.TempDir(), name, img); err != nil {
			t.Fatal(err)
		}
		n.Pull(name)
		c := n.ContainerConfig("sleep", "60")
		c.Image.Image = name
		_, err := n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
		WantCode(t, err, codes.FailedPrecondition)
		if err == nil || !strings.Contains(err.Error(), "checkpoint") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	archive := filepath.Join(t.TempDir(), "checkpoint.tar")
	if err := os.WriteFile(archive, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := n.ContainerConfig("sleep", "60")
	c.Image.Image = archive
	_, err = n.Runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
	WantCode(t, err, codes.InvalidArgument)
	if err == nil || !strings.Contains(err.Error(), "config.image.image") || !strings.Contains(err.Error(), "checkpoint") {
		t.Errorf("a path: %v", err)
	}
}
