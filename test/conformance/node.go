package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/layer"
	"github.com/cricket-cri/cricket/runtime/monitor"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/vmsandbox/node"
)

// Node is what the drivers of one machine share: directories, a monitor, the layers of a
// busybox image, and one network.
type Node struct {
	Paths   harness.Paths
	Monitor *monitor.Client
	Layers  *layer.Store
	Network *cni.Network
	Image   []digest.Digest
	Log     *slog.Logger
	log     *os.File
}

// NewNode starts a monitor and fills the layer store. The monitor ends with the test.
func NewNode(t testing.TB) *Node {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/var/tmp" && d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		_ = os.Chmod(d, 0o711) // root of a user namespace has to pass
	}
	paths, err := harness.MakePaths(dir, "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Paths: paths}
	if n.log, err = os.Create(paths.Log); err != nil {
		t.Fatal(err)
	}
	n.Log = slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(paths.Log)
			t.Logf("log of the drivers:\n%s", text)
		}
		_ = n.log.Close()
	})
	t.Cleanup(func() {
		for _, dir := range []string{"containers", "layers"} { // mounts that keep others private
			_ = unix.Unmount(filepath.Join(paths.State, dir), unix.MNT_DETACH)
		}
	})
	n.startMonitor(t)
	n.open(t)
	n.ingest(t)
	return n
}

func (n *Node) startMonitor(t testing.TB) {
	t.Helper()
	socket, err := os.MkdirTemp("", "ckm") // the names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	o := monitor.StartOptions{
		Binary: filepath.Join(os.Getenv(binEnv), "cricket-monitor"), Socket: filepath.Join(socket, "m.sock"),
		State: filepath.Join(n.Paths.State, "monitor"), LogFile: n.Paths.Log, LogLevel: "info",
	}
	info, err := monitor.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	n.Monitor = monitor.NewClient(monitor.DialPatiently(o.Socket, 10*time.Second))
	t.Cleanup(func() {
		if entries, err := n.Monitor.List(context.Background()); err != nil || len(entries) > 0 {
			t.Errorf("the monitor still has %v, %v", entries, err)
		}
		if p, err := os.FindProcess(info.Pid); err == nil {
			_ = p.Kill()
		}
		_ = os.RemoveAll(socket)
	})
}

// open opens what a daemon opens when it starts.
func (n *Node) open(t testing.TB) {
	t.Helper()
	var err error
	n.Layers, err = layer.Open(layer.Options{
		Root: filepath.Join(n.Paths.Root, "layers"), State: filepath.Join(n.Paths.State, "layers"), Log: n.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Network, err = cni.Open(cni.Options{
		ConfDir: n.Paths.CNIConf, BinDirs: harness.CNIBin, Root: filepath.Join(n.Paths.Root, "cni"), Log: n.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *Node) ingest(t testing.TB) {
	t.Helper()
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		t.Fatal(err)
	}
	image, err := set.Image(images.Busybox)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		id, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		n.Image = append(n.Image, digest.Digest(id.String()))
		n.ingestLayer(t, digest.Digest(id.String()), content)
		_ = content.Close()
	}
}

// ingestLayer takes a layer in, which goes with the test.
func (n *Node) ingestLayer(t testing.TB, id digest.Digest, content io.Reader) {
	t.Helper()
	if err := n.Layers.Ingest(context.Background(), id, content); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Layers.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
}

// derive makes an image of the node's with one more file in its root.
func (n *Node) derive(t testing.TB, name, text string) []digest.Digest {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	id := digest.FromBytes(layer.Bytes())
	n.ingestLayer(t, id, &layer)
	return append(slices.Clone(n.Image), id)
}

// Hull is a driver under test.
type Hull struct {
	Name string
	Node *Node
	// Open makes the driver, as every start of a daemon does.
	Open func(t testing.TB) sandbox.Driver
	// Close lets go of the driver, as the end of a daemon does; nil if there is nothing to do.
	Close func(t testing.TB)
	// Driver is the one in use; Restart replaces it.
	Driver sandbox.Driver
	// virtual are the options of machines, if it is their hull.
	virtual node.Options
	// Refused names what this hull refuses: keys of the refusals in suite.
	Refused map[string]bool
}

// Restart is what a restart of the daemon does to the driver.
func (h *Hull) Restart(t testing.TB) {
	t.Helper()
	h.Driver = h.Open(t)
}
