//go:build failpoint

package sandbox_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
)

// fileNetwork keeps its attachments in files, so that they outlive a killed driver.
type fileNetwork struct{ dir string }

func (n fileNetwork) Add(_ context.Context, p cni.Pod) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("10.0.0.9")}, os.WriteFile(filepath.Join(n.dir, p.ID), nil, 0o600)
}

func (n fileNetwork) Del(_ context.Context, id string) error {
	if err := os.Remove(filepath.Join(n.dir, id)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n fileNetwork) List() (ids []string, err error) {
	entries, err := os.ReadDir(n.dir)
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}

// variants are the pods that take different ways through the flows.
func variants() map[string]func(*sandbox.Config) {
	return map[string]func(*sandbox.Config){
		"own cgroup, shared PID": func(c *sandbox.Config) { c.CgroupParent, c.PID = "", runtime.NamespacePod },
		"user namespace":         func(c *sandbox.Config) { c.UserNS = mappings() },
	}
}

// wholeLife takes a pod and a container from beginning to end.
func wholeLife(ctx context.Context, d sandbox.Driver, c sandbox.Config) error {
	s, err := d.Create(ctx, c)
	if err != nil {
		return err
	}
	config := shell("c01", "exec sleep 100")
	config.PID = c.PID
	live, err := s.NewContainer(ctx, config)
	if err == nil {
		err = live.Start(ctx)
	}
	if err == nil {
		err = s.Stop(ctx)
	}
	// What failed is tried again, as the kubelet does.
	err = errors.Join(err, s.Remove(ctx))
	if err != nil {
		return errors.Join(err, s.Remove(ctx))
	}
	return nil
}

// steps runs a life and lists the places where it can fail.
func steps(t *testing.T, h *host, c sandbox.Config) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "failpoints")
	t.Setenv(flow.FailpointFile, file)
	if err := wholeLife(context.Background(), h, c); err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(file + ".seen")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Split(strings.TrimSpace(string(seen)), "\n")
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 30 {
		t.Fatalf("only %d places: %v", len(names), names)
	}
	return names
}

func arm(t *testing.T, point, action string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "failpoints")
	t.Setenv(flow.FailpointFile, file)
	if err := os.WriteFile(file, []byte(point+"="+action+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *host) configFor(change func(*sandbox.Config)) sandbox.Config {
	c := h.config(podID)
	change(&c)
	return c
}

func TestEveryStepFails(t *testing.T) {
	for name, change := range variants() {
		t.Run(name, func(t *testing.T) {
			h := newRealHost(t)
			c := h.configFor(change)
			for _, point := range steps(t, h, c) {
				t.Run(point, func(t *testing.T) {
					arm(t, point, "error")
					if err := wholeLife(context.Background(), h, c); err == nil || !strings.Contains(err.Error(), "failpoint "+point) {
						t.Errorf("got %v", err)
					}
					h.expectNothing(t)
				})
			}
		})
	}
}

// TestDriverProcess is not a test of its own: it is the process that TestEveryStepKills
// kills.
func TestDriverProcess(t *testing.T) {
	place := os.Getenv("CRICKET_TEST_PLACE")
	if place == "" {
		return
	}
	options, change := placeOptions(t, place), variants()[os.Getenv("CRICKET_TEST_VARIANT")]
	h := &host{options: options, parent: os.Getenv("CRICKET_TEST_PARENT")}
	h.restart(t)
	c := h.config(os.Getenv("CRICKET_TEST_POD"))
	change(&c)
	t.Fatalf("nobody killed this process: %v", wholeLife(context.Background(), h, c))
}

// placeOptions are the options of a driver whose directories are links in place.
func placeOptions(t *testing.T, place string) sandbox.Options {
	t.Helper()
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	rt.Root = filepath.Join(place, "oci")
	return sandbox.Options{
		Root: filepath.Join(place, "root"), State: filepath.Join(place, "state"), Runtime: rt,
		Monitor: monitor.NewClient(monitor.DialUnix(os.Getenv("CRICKET_TEST_SOCKET"))),
		Layers:  fakeLayers{dir: os.Getenv("CRICKET_TEST_LAYER")},
		Network: fileNetwork{dir: filepath.Join(place, "network")},
	}
}

func TestEveryStepKills(t *testing.T) {
	for name, change := range variants() {
		t.Run(name, func(t *testing.T) {
			h := newRealHost(t)
			c := h.configFor(change)
			points := steps(t, h, c)
			place := filepath.Dir(h.options.State)
			if err := os.Mkdir(filepath.Join(place, "network"), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("CRICKET_TEST_PLACE", place)
			t.Setenv("CRICKET_TEST_VARIANT", name)
			t.Setenv("CRICKET_TEST_PARENT", h.parent)
			t.Setenv("CRICKET_TEST_POD", podID)
			t.Setenv("CRICKET_TEST_SOCKET", h.socket)
			t.Setenv("CRICKET_TEST_LAYER", h.options.Layers.(fakeLayers).dir)
			h.options.Network = fileNetwork{dir: filepath.Join(place, "network")}
			for _, point := range points {
				t.Run(point, func(t *testing.T) {
					arm(t, point, "kill")
					out, err := exec.Command("/proc/self/exe", "-test.run=^TestDriverProcess$").CombinedOutput()
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatalf("not killed: %v: %s", err, out)
					}
					h.restart(t)
					ids, err := h.List(context.Background())
					if err != nil {
						t.Fatal(err)
					}
					for _, id := range ids {
						if err := h.Sweep(context.Background(), id); err != nil {
							t.Fatal(err)
						}
					}
					h.expectNothing(t)
				})
			}
		})
	}
}
