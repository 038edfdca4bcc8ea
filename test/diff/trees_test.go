package diff

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
)

// longEnv asks for all trees, not for the smallest alone.
const longEnv = "CRICKET_TEST_LONG"

// A container's root file system on the shared kernel is what containerd's overlayfs
// snapshotter presents, and programs of its image do what they do there.
func TestTreesKernel(t *testing.T) { compareTrees(t, kernelName) }

// So it is in a virtual machine.
func TestTreesVM(t *testing.T) { compareTrees(t, vmName) }

// The trees: one that is small and always compared, and one of Debian's packages. Both have
// the odd layers on them.
const (
	oddTree    = "odd"
	debianTree = "debian"
)

// treeImage is the name of a tree's image in the registry.
func treeImage(name string) string { return "diff.test/tree:" + name }

func treeNames() []string {
	if os.Getenv(longEnv) == "" {
		return []string{oddTree}
	}
	return []string{oddTree, debianTree}
}

// serveTrees has the registry serve the trees, the first time.
var serveTrees = sync.OnceValue(func() error { return addTrees(world.images, world.set) })

// addTrees makes the images and has the registry serve them.
func addTrees(r *images.Registry, set *images.Set) error {
	program, err := os.ReadFile(filepath.Join(os.Getenv(binEnv), "probe"))
	if err != nil {
		return err
	}
	probe, err := layerOf(map[string]string{"probe": string(program)})
	if err != nil {
		return err
	}
	odd, err := oddLayers(filepath.Join(harness.Dir(), "odd"))
	if err != nil {
		return err
	}
	for _, name := range treeNames() {
		from, image := set, images.Busybox
		if name == debianTree {
			if from, err = images.Open(os.Getenv(corpusEnv)); err != nil {
				return err
			}
			image = images.Corpus
		}
		img, err := from.Image(image)
		if err != nil {
			return err
		}
		if img, err = mutate.AppendLayers(img, append([]v1.Layer{probe}, odd...)...); err != nil {
			return err
		}
		if err := r.Add(filepath.Join(harness.Dir(), "trees"), treeImage(name), img); err != nil {
			return err
		}
	}
	return nil
}

func compareTrees(t *testing.T, hull string) {
	text, err := os.ReadFile("trees.txt")
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseList(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := serveTrees(); err != nil {
		t.Fatal(err)
	}
	world.machines = 1 // one container at a time
	ours, err := world.get(hull)
	if err != nil {
		t.Fatal(err)
	}
	sum := &tally{used: map[int]bool{}, groups: map[difference][]string{}}
	all := treeNames()
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			look := func(ctx context.Context, e *endpoint) observation { return e.observeTree(ctx, name) }
			peer, own := world.peer("tree/"+name, look), look(t.Context(), ours)
			for _, o := range []observation{peer, own} {
				if o.broken != "" {
					t.Fatal(o.broken)
				}
			}
			t.Logf("%d things to compare", len(peer.fields))
			found := sum.add(hull, list, differences(name, peer.fields, own.fields))
			for i, d := range found {
				if i == 100 {
					t.Errorf("and %d more that are not listed", len(found)-i)
					break
				}
				t.Errorf("not listed: %s | %s | %s | %s | %s", hull, d.testCase, d.field, d.peer, d.ours)
			}
		})
	}
	if t.Failed() || sum.ran < len(all) {
		return
	}
	for _, a := range list {
		if (a.hull == hull || a.hull == bothHulls) && !sum.used[a.line] && (a.testCase != debianTree || len(all) > 1) {
			t.Errorf("trees.txt:%d no longer applies: %s | %s | %s | %s | %s", a.line, a.hull, a.testCase, a.field, a.peer, a.ours)
		}
	}
}

// treePatience is how long a program of a tree may take, emulated.
const treePatience = 5 * time.Minute

// observeTree runs a container of a tree, looks at its root and has it do its work.
func (e *endpoint) observeTree(ctx context.Context, name string) observation {
	began := time.Now()
	fields, err := e.lookAtTree(ctx, name)
	if err != nil {
		return observation{broken: fmt.Sprintf("%s: %s: %v", e.name, name, err)}
	}
	fmt.Printf("%s: %s took %s\n", e.name, name, time.Since(began).Round(time.Second/10))
	return observation{fields: fields}
}

func (e *endpoint) lookAtTree(ctx context.Context, name string) (map[string]string, error) {
	image := &cri.ImageSpec{Image: treeImage(name)}
	if _, err := e.store.PullImage(ctx, &cri.PullImageRequest{Image: image}); err != nil {
		return nil, err
	}
	r := base(testCase{name: "tree/" + name}, e.daemon.Paths.Dir)
	r.container.Image = image
	r.container.LogPath = "tree-" + name + ".log"
	r.security().Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	r.security().MaskedPaths, r.security().ReadonlyPaths = nil, nil
	pod, err := e.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: r.pod, RuntimeHandler: e.handler})
	if err != nil {
		return nil, err
	}
	id := pod.GetPodSandboxId()
	defer func() {
		end := context.WithoutCancel(ctx)
		e.runtime.StopPodSandbox(end, &cri.StopPodSandboxRequest{PodSandboxId: id})
		e.runtime.RemovePodSandbox(end, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	}()
	r.container.Command = []string{"/probe"}
	c, err := e.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: id, Config: r.container, SandboxConfig: r.pod})
	if err != nil {
		return nil, err
	}
	if _, err := e.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.GetContainerId()}); err != nil {
		return nil, err
	}
	fields := map[string]string{}
	listing, err := e.command(ctx, c.GetContainerId(), "/probe", "tree")
	if err != nil {
		return nil, err
	}
	if err := addTree(fields, listing.GetStdout()); err != nil {
		return nil, err
	}
	for i, script := range treeWork[name] {
		out, err := e.command(ctx, c.GetContainerId(), "sh", "-c", script)
		if err != nil {
			return nil, err
		}
		work := fmt.Sprintf("work %d", i)
		fields[work+" exit"] = strconv.Itoa(int(out.GetExitCode()))
		fields[work+" output"] = strings.ReplaceAll(string(out.GetStdout())+string(out.GetStderr()), "\n", `\n`)
		if out.GetExitCode() != 0 {
			return nil, fmt.Errorf("%s ends with %d: %s%s", script, out.GetExitCode(), out.GetStdout(), out.GetStderr())
		}
	}
	return fields, nil
}

func (e *endpoint) command(ctx context.Context, id string, command ...string) (*cri.ExecSyncResponse, error) {
	return e.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(treePatience.Seconds())})
}

// recently is what no file's time is later than that was in an image.
var recently = float64(time.Now().Add(-10 * time.Second).Unix())

// addTree takes the probe's listing apart, so that every attribute is a field.
func addTree(fields map[string]string, listing []byte) error {
	files := map[string]string{}
	if err := json.Unmarshal(listing, &files); err != nil {
		return fmt.Errorf("what the probe says: %w: %.300q", err, listing)
	}
	if len(files) < 1000 {
		return fmt.Errorf("the probe sees %d files", len(files))
	}
	for path, text := range files {
		for word := range strings.FieldsSeq(text) {
			name, value, _ := strings.Cut(word, "=")
			if at, err := strconv.ParseFloat(value, 64); name == "mtime" && err == nil && at > recently {
				value = "<now>"
			}
			fields[path+" "+name] = value
		}
	}
	return nil
}
