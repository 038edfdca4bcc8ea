package cri

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cricket-cri/cricket/cri/event"
	"github.com/cricket-cri/cricket/cri/operator"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/runtime/image"
)

// depot is an image store of names, whose pulls are scripted.
type depot struct {
	Images
	mu     sync.Mutex
	has    []string
	pulls  []string
	pull   func(ctx context.Context, ref string) error
	taking func(ctx context.Context, what image.Import, from image.Content) (image.Image, error)
}

func (d *depot) Get(ref string) (image.Image, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Contains(d.has, ref) {
		return image.Image{}, nil
	}
	return image.Image{}, errdefs.ErrNotFound
}

func (d *depot) Pull(ctx context.Context, ref string, _ *image.Auth, _ ...image.PullOption) (image.Image, error) {
	d.mu.Lock()
	d.pulls = append(d.pulls, ref)
	d.mu.Unlock()
	if err := d.pull(ctx, ref); err != nil {
		return image.Image{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.has = append(d.has, ref)
	return image.Image{}, nil
}

func (d *depot) Import(ctx context.Context, what image.Import, from image.Content) (image.Image, error) {
	return d.taking(ctx, what, from)
}

func depotServer(d *depot) *Server {
	log := slog.New(slog.DiscardHandler)
	return &Server{opts: Options{Images: d}, work: newWork(nil), ops: ops.NewTable(log, nil), events: event.NewBus(), log: log}
}

func TestPrefetch(t *testing.T) {
	failures := map[string]int{"flaky": 3}
	d := &depot{has: []string{"here"}}
	d.pull = func(_ context.Context, ref string) error {
		if failures[ref]--; failures[ref] >= 0 {
			return errdefs.ErrUnavailable
		}
		return nil
	}
	s := depotServer(d)
	s.prefetch(t.Context(), []string{"here", "flaky", "well"}, time.Millisecond)
	if want := []string{"flaky", "well", "flaky", "flaky", "flaky"}; !slices.Equal(d.pulls, want) {
		t.Errorf("pulls = %v, want %v", d.pulls, want)
	}

	// A registry that does not answer holds up neither the start nor the end.
	begun := make(chan struct{})
	d.pull = func(ctx context.Context, _ string) error { close(begun); <-ctx.Done(); return ctx.Err() }
	s = depotServer(d)
	s.Prefetch([]string{"slow"})
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// sack is content in memory.
type sack map[digest.Digest][]byte

func (s sack) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	raw, ok := s[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

// What a client has reaches the image store, several blobs at a time and of any size, and
// what the client lacks or cannot read is an error of its kind.
func TestImportOverTheSocket(t *testing.T) {
	content := sack{}
	var want []ocispec.Descriptor
	for _, size := range []int{0, 1, 256 << 10, 3<<20 + 17} {
		raw := bytes.Repeat([]byte{byte(size + 7)}, size)
		d := ocispec.Descriptor{Digest: digest.FromBytes(raw), Size: int64(size)}
		content[d.Digest] = raw
		want = append(want, d)
	}
	absent := ocispec.Descriptor{Digest: digest.FromString("absent")}
	d := &depot{taking: func(ctx context.Context, what image.Import, from image.Content) (image.Image, error) {
		var group sync.WaitGroup
		for _, desc := range want {
			group.Go(func() {
				rc, err := from.Open(ctx, desc)
				if err != nil {
					t.Error(err)
					return
				}
				defer rc.Close()
				if raw, err := io.ReadAll(rc); err != nil || digest.FromBytes(raw) != desc.Digest {
					t.Errorf("blob of %d bytes arrived with %d: %v", desc.Size, len(raw), err)
				}
			})
		}
		group.Wait()
		rc, err := from.Open(ctx, want[3]) // which nobody reads to its end
		if err != nil {
			return image.Image{}, err
		}
		rc.Close()
		if rc, err = from.Open(ctx, absent); err != nil {
			return image.Image{}, err
		}
		defer rc.Close()
		if _, err := io.ReadAll(rc); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("absent blob: %v", err)
		}
		if what.Names[0] == "bad" {
			return image.Image{}, errdefs.ErrResourceExhausted
		}
		return image.Image{ID: "sha256:1", RepoTags: what.Names}, nil
	}}
	c := operator.NewClient(connected(t, depotServer(d)))
	got, err := c.Import(t.Context(), image.Import{Names: []string{"app"}}, content, nil)
	if err != nil || got.ID != "sha256:1" || !slices.Equal(got.RepoTags, []string{"app"}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Import(t.Context(), image.Import{Names: []string{"bad"}}, content, nil); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("error = %v, want resource exhausted", err)
	}
	if _, err := c.Import(t.Context(), image.Import{}, content, nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a name: %v, want invalid argument", err)
	}
	d.pull = func(context.Context, string) error { return errdefs.ErrPermissionDenied }
	if _, err := c.Prefetch(t.Context(), "app", nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("prefetch: %v, want permission denied", err)
	}
}
