package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/cri/operator"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/layer"
)

// place is a node's store, and the flags that lead to it.
type place struct{ root, socket string }

func newPlace(t *testing.T) place {
	dir := t.TempDir()
	return place{filepath.Join(dir, "root"), filepath.Join(dir, "s")}
}

// cricket runs an image command.
func (p place) cricket(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	flags := []string{"--root", p.root, "--state", p.root + "-state", "--socket", p.socket}
	return run(t, append(append(strings.Fields(name), flags...), args...)...)
}

// daemon serves the place's store as cricketd does.
type daemon struct {
	v1.UnimplementedRuntimeServiceServer
	v1.UnimplementedImageServiceServer
	store  *image.Store
	config config.Config
}

func (d *daemon) Status(context.Context, *v1.StatusRequest) (*v1.StatusResponse, error) {
	text, err := json.Marshal(d.config)
	return &v1.StatusResponse{Info: map[string]string{"config": string(text)}}, err
}

func (d *daemon) RemoveImage(ctx context.Context, r *v1.RemoveImageRequest) (*v1.RemoveImageResponse, error) {
	return &v1.RemoveImageResponse{}, d.store.Remove(ctx, r.GetImage().GetImage())
}

func (d *daemon) ImportImage(ctx context.Context, what image.Import, from image.Content) (image.Image, error) {
	return d.store.Import(ctx, what, from)
}

func (d *daemon) PrefetchImage(ctx context.Context, ref string) (image.Image, error) {
	return d.store.Pull(ctx, ref, nil)
}

func (p place) serve(t *testing.T) *daemon {
	t.Helper()
	layers, err := layer.Open(layer.Options{Root: p.root + "/layers"})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{config: config.Default()}
	d.config.Root = p.root
	if d.store, err = image.Open(image.Options{Root: p.root + "/images", Layers: layers}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	v1.RegisterRuntimeServiceServer(g, d)
	v1.RegisterImageServiceServer(g, d)
	operator.Register(g, d)
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return d
}

// dockerFile is a Docker archive with an image of two layers, one of them large.
func dockerFile(t *testing.T, names ...string) string {
	t.Helper()
	one, two := oneFile("one", strings.Repeat("one", 10)), oneFile("two", strings.Repeat("two!", 600_000))
	config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q,%q]}}`, digest.FromBytes(one), digest.FromBytes(two))
	manifest, _ := json.Marshal([]map[string]any{{"Config": "c.json", "RepoTags": names, "Layers": []string{"1.tar", "2.tar"}}})
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct{ name, body string }{{"manifest.json", string(manifest)}, {"c.json", config}, {"1.tar", string(one)}, {"2.tar", string(two)}} {
		w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.body)), Mode: 0o644})
		io.WriteString(w, f.body)
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func oneFile(name, body string) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644})
	io.WriteString(w, body)
	w.Close()
	return out.Bytes()
}

// Image commands do the same with a daemon and without one; what they change, the daemon
// knows at once.
func TestImageCommands(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		t.Run(fmt.Sprintf("daemon=%v", daemon), func(t *testing.T) {
			p := newPlace(t)
			list := func() []image.Image {
				images, _, _ := image.Records{Root: p.root + "/images"}.List()
				return images
			}
			if daemon {
				list = p.serve(t).store.List
			}
			out, err := p.cricket(t, "image import", "--pin", dockerFile(t, "example.com/app:v1", "app:v2"))
			if err != nil || !strings.HasPrefix(out, "imported example.com/app:v1 app:v2 sha256:") {
				t.Fatalf("import: %q, %v", out, err)
			}
			if l := list(); len(l) != 1 || len(l[0].RepoTags) != 2 || !l[0].Pinned {
				t.Fatalf("images = %+v", l)
			}
			if out, err := p.cricket(t, "image ls"); err != nil || strings.Count(out, "pinned") != 2 || !strings.Contains(out, "docker.io/library/app:v2") {
				t.Errorf("ls: %q, %v", out, err)
			}
			file := filepath.Join(t.TempDir(), "out.tar")
			if out, err := p.cricket(t, "image export", "--output", file, "app:v2"); err != nil || out != "" {
				t.Errorf("export: %q, %v", out, err)
			}
			if _, err := p.cricket(t, "image rm", "app:v2"); err != nil || len(list()) != 0 {
				t.Errorf("rm: %v, images = %v", err, list())
			}
			if _, err := p.cricket(t, "image rm", "app:v2"); err == nil {
				t.Error("rm of what is not there: no error")
			}
			if out, err := p.cricket(t, "image import", "--name", "mine:v3", file); err != nil || len(list()) != 1 || list()[0].RepoTags[0] != "docker.io/library/mine:v3" {
				t.Errorf("import of the export: %q, %v, %v", out, err, list())
			}
			if out, err := p.cricket(t, "verify"); err != nil || !strings.HasSuffix(out, ": all well\n") || !strings.HasPrefix(out, "1 images, 2 layers, ") {
				t.Errorf("verify: %q, %v", out, err)
			}
			if _, err := p.cricket(t, "image prefetch", "127.0.0.1:1/absent:v1"); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/absent:v1") {
				t.Errorf("prefetch of what is not there: %v", err)
			}
		})
	}
}

// Damage is found, told with what needs it, and removed so that the image can come again.
func TestVerifyAndRepair(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		t.Run(fmt.Sprintf("daemon=%v", daemon), func(t *testing.T) {
			p := newPlace(t)
			archive := dockerFile(t, "example.com/app:v1")
			if daemon {
				p.serve(t)
			}
			if _, err := p.cricket(t, "image import", archive); err != nil {
				t.Fatal(err)
			}
			blobs, _ := filepath.Glob(p.root + "/layers/*.erofs")
			f, err := os.OpenFile(blobs[0], os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			f.WriteAt([]byte{0xff}, 5000)
			f.Close()
			out, err := p.cricket(t, "verify")
			if !errors.Is(err, errQuiet) || !strings.Contains(out, "DAMAGED  layer sha256:") || !strings.Contains(out, "needed by example.com/app:v1") || !strings.Contains(out, "--repair") {
				t.Errorf("verify: %q, %v", out, err)
			}
			if out, err := p.cricket(t, "verify", "--repair"); err != nil || !strings.Contains(out, "removed") {
				t.Errorf("repair: %q, %v", out, err)
			}
			if blobs, _ := filepath.Glob(p.root + "/layers/*.erofs"); len(blobs) != 0 {
				t.Errorf("left: %v", blobs)
			}
			if _, err := p.cricket(t, "image import", archive); err != nil {
				t.Error(err)
			}
			records, _ := filepath.Glob(p.root + "/images/*.json")
			os.WriteFile(records[0], []byte("{"), 0o600)
			if out, err := p.cricket(t, "verify"); !errors.Is(err, errQuiet) || !strings.Contains(out, "DAMAGED  record") {
				t.Errorf("verify of a record: %q, %v", out, err)
			}
			if out, err := p.cricket(t, "verify", "--repair"); err != nil {
				t.Errorf("repair of a record: %q, %v", out, err)
			}
			if out, err := p.cricket(t, "verify"); err != nil || !strings.HasPrefix(out, "0 images, 0 layers") {
				t.Errorf("after repair: %q, %v", out, err)
			}
		})
	}
}

// A record that was set aside says nothing of the image that has come again since.
func TestRepairSparesWhatCameAgain(t *testing.T) {
	for _, daemon := range []bool{false, true} {
		t.Run(fmt.Sprintf("daemon=%v", daemon), func(t *testing.T) {
			p := newPlace(t)
			if daemon {
				p.serve(t)
			}
			if _, err := p.cricket(t, "image import", dockerFile(t, "example.com/app:v1")); err != nil {
				t.Fatal(err)
			}
			records, _ := filepath.Glob(p.root + "/images/*.json")
			if err := os.WriteFile(records[0]+".bad", []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := p.cricket(t, "verify", "--repair"); err != nil || !strings.Contains(out, "set aside") {
				t.Errorf("repair: %q, %v", out, err)
			}
			if out, err := p.cricket(t, "verify"); err != nil || !strings.HasPrefix(out, "1 images, 2 layers") || !strings.HasSuffix(out, ": all well\n") {
				t.Errorf("after repair: %q, %v", out, err)
			}
		})
	}
}

// A store that a daemon uses, which does not answer, is not touched.
func TestStoreOfASilentDaemon(t *testing.T) {
	p := newPlace(t)
	os.MkdirAll(p.root, 0o700)
	f, err := os.Create(p.root + "/cricketd.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := p.cricket(t, "image import", dockerFile(t, "a:b")); err == nil || !strings.Contains(err.Error(), "a daemon uses") {
		t.Errorf("error = %v", err)
	}
	if left, _ := os.ReadDir(p.root); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A client that goes away in the middle leaves nothing, and the daemon serves others.
func TestImportOfAClientThatGoes(t *testing.T) {
	p := newPlace(t)
	d := p.serve(t)
	file, err := os.ReadFile(dockerFile(t, "a:b"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := reach(t.Context(), d.at(p.socket))
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	ctx, cancel := context.WithCancel(t.Context())
	what := image.Import{Names: []string{"a:b"}, Anonymous: true}
	what.Target.Digest, what.Target.Size = digest.FromBytes(file), int64(len(file))
	if _, err := n.importImage(ctx, what, stuck{cancel}, func(image.LayerProgress) {}); err == nil {
		t.Error("no error")
	}
	for range 100 {
		if len(d.store.List()) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := p.cricket(t, "image import", dockerFile(t, "a:b")); err != nil {
		t.Errorf("the next import: %v", err)
	}
}

func (d *daemon) at(socket string) config.Config {
	c := d.config
	c.Socket = socket
	return c
}

// stuck is content that never comes: its client is gone.
type stuck struct{ leave func() }

func (s stuck) Open(ctx context.Context, _ ocispec.Descriptor) (io.ReadCloser, error) {
	s.leave()
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestBars(t *testing.T) {
	now := time.Unix(1000, 0)
	layer := digest.FromString("x")
	feed := func(width int) string {
		var out bytes.Buffer
		b := &bars{out: &out, width: width, now: func() time.Time { return now }, by: map[digest.Digest]*bar{}}
		b.report(image.LayerProgress{Layer: layer, Total: 100_000_000})
		now = now.Add(10 * time.Second)
		b.report(image.LayerProgress{Layer: layer, Done: 20_000_000, Total: 100_000_000})
		now = now.Add(10 * time.Second)
		b.report(image.LayerProgress{Layer: layer, Done: 100_000_000, Total: 100_000_000, Stored: true})
		b.report(image.LayerProgress{Layer: digest.FromString("y"), Present: true, Stored: true})
		b.close()
		return out.String()
	}
	want := "layer " + layer.Encoded()[:12] + " is done: 100.0 MB in 20s\nlayer " + digest.FromString("y").Encoded()[:12] + " is there already\n"
	if got := feed(0); got != want {
		t.Errorf("no terminal: %q, want %q", got, want)
	}
	got := feed(100)
	for _, part := range []string{"[########", "20.0 MB of 100.0 MB, 2.0 MB/s, 40s left", "100.0 MB in 20s", "there already", "\x1b[1A"} {
		if !strings.Contains(got, part) {
			t.Errorf("terminal: %q lacks %q", got, part)
		}
	}
	for line := range strings.SplitSeq(feed(30), "\n") {
		if text := line[strings.LastIndex(line, "\x1b[K")+1:]; len(text) > 30+3 {
			t.Errorf("%q is wider than the terminal", text)
		}
	}
}
