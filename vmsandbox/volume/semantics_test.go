package volume_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// semantics runs a program in a container, which tries what can be done with files in
// each kind of volume. What does not work by 9p stands in docs/decisions/0006; if one of
// those comes to work, both are to be changed.
func (g *guest) semantics(t *testing.T, base string) {
	for name, c := range map[string]struct {
		source string
		lacks  []string
	}{
		"memory": {base + memoryDir, nil},
		"disk":   {base + diskDir, nil},
		"shared": {base + "/probed", []string{
			"O_TMPFILE", "fallocate", "truncate an unlinked file", "chmod an unlinked file", "exchange",
			"times", "file capability", "named pipe", "socket", "inotify below",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			out := g.run(t, "probe-"+name, runtime.Mount{Source: g.add(t, runtime.Mount{Source: c.source}), Destination: "/mnt"}, "/mnt")
			results := 0
			for line := range strings.Lines(out) {
				name, result, _ := strings.Cut(strings.TrimSpace(line), "\t")
				if strings.HasPrefix(name, "speed:") {
					t.Log(name, result)
					continue
				}
				results++
				if lacks := slices.Contains(c.lacks, name); (result != "ok") != lacks {
					t.Errorf("%s: %s", name, result)
				}
			}
			if results < 30 {
				t.Errorf("the program said only:\n%s", out)
			}
		})
	}
}

// program puts the program into a directory that is shared as an image.
func (g *guest) program(t *testing.T, base string) {
	image := filepath.Join(base, "image")
	build := exec.Command("go", "build", "-o", filepath.Join(image, "probe"), "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	for _, dir := range []string{"proc", "dev", "sys", "etc"} {
		if err := os.MkdirAll(filepath.Join(image, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	g.image = g.add(t, runtime.Mount{Source: image, Readonly: true})
}

// watchers sees a container that watches an API volume notice the kubelet's exchange.
func (g *guest) watchers(t *testing.T, dir string) {
	publish(t, dir, "..1", "one")
	mount := runtime.Mount{Source: g.add(t, runtime.Mount{Source: dir, Readonly: true}), Destination: "/conf", Readonly: true}
	published := make(chan struct{})
	go func() {
		defer close(published)
		for !strings.Contains(g.read(t, agent.DirLogs+"/watcher"), "watching") && t.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		publish(t, dir, "..2", "two")
	}()
	out := g.run(t, "watcher", mount, "watch", "/conf")
	<-published
	if want := "watching <nil>\npublished two <nil>\n"; out != want {
		t.Errorf("the container wrote %q, want %q", out, want)
	}
}

// run runs the program in a container and returns what it wrote.
func (g *guest) run(t *testing.T, id string, mount runtime.Mount, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	caps := spec.DefaultCapabilities()
	set := &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	built, err := spec.Build(runtime.Config{
		ID: id, Args: append([]string{"/probe"}, args...), Cwd: "/", Capabilities: set, PID: runtime.NamespaceContainer, Mounts: []runtime.Mount{mount},
	}, spec.Place{
		Rootfs: "rootfs", CgroupsPath: agent.PodCgroup + "/" + id, CgroupV2: true, HostCapabilities: caps, Hostname: "probe",
		Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := agent.DirContainers + "/" + id
	var files []agent.File
	for _, d := range []string{dir, dir + "/upper", dir + "/work"} {
		files = append(files, agent.File{Path: d, Mode: unix.S_IFDIR | 0o755})
	}
	if err := g.Put(ctx, files); err != nil {
		t.Fatal(err)
	}
	log := agent.DirLogs + "/" + id
	if _, err := g.monitor.Create(ctx, monitor.CreateRequest{
		ID: id, Bundle: dir, Spec: built, LogPath: log,
		Rootfs: monitor.Overlay{Target: "rootfs", Lower: []string{g.image}, Upper: dir + "/upper", Work: dir + "/work"},
	}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.monitor.Delete(context.WithoutCancel(ctx), id); err != nil {
			t.Error(err)
		}
	}()
	if _, err := g.monitor.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	exit, err := g.monitor.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := g.Get(ctx, log)
	if err != nil || exit.Code != 0 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(raw.Content)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			out.WriteString(fields[3])
		}
	}
	return out.String()
}
