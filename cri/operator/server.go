package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"github.com/cricket-cri/cricket/runtime/image"
)

func serveImport(srv any, stream grpc.ServerStream) error {
	w := &wire{stream: stream}
	first, _, _, err := w.receive()
	if err != nil {
		return err
	}
	if first.Import == nil {
		return fmt.Errorf("import image: %w: the first message describes none", errdefs.ErrInvalidArgument)
	}
	from := &remote{wire: w, blobs: map[uint64]*io.PipeWriter{}}
	go from.run() // ends with the stream, which ends when this function returns
	return answer(stream.Context(), w, func(ctx context.Context) (image.Image, error) {
		return srv.(Server).ImportImage(ctx, *first.Import, from)
	})
}

func servePull(srv any, stream grpc.ServerStream) error {
	w := &wire{stream: stream}
	first, _, _, err := w.receive()
	if err != nil {
		return err
	}
	return answer(stream.Context(), w, func(ctx context.Context) (image.Image, error) {
		return srv.(Server).PrefetchImage(ctx, first.Pull)
	})
}

// answer does the work and sends progress and result.
func answer(ctx context.Context, w *wire, do func(context.Context) (image.Image, error)) error {
	t := &teller{wire: w, news: map[digest.Digest]image.LayerProgress{}}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); t.run(stop) }()
	img, err := do(image.WithProgress(ctx, t.report))
	close(stop)
	<-done
	if err != nil {
		return err
	}
	return w.send(frame{Image: &img})
}

// tellEvery is how often clients hear of progress.
const tellEvery = 200 * time.Millisecond

// teller sends the newest of every layer, so that nobody who works waits for a client.
type teller struct {
	wire *wire

	mu   sync.Mutex
	news map[digest.Digest]image.LayerProgress
}

func (t *teller) report(p image.LayerProgress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.news[p.Layer] = p
}

func (t *teller) run(stop <-chan struct{}) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-stop:
			ended = true
		}
		t.mu.Lock()
		news := t.news
		t.news = map[digest.Digest]image.LayerProgress{}
		t.mu.Unlock()
		for _, p := range news {
			if t.wire.send(frame{Progress: &p}) != nil {
				return // the client is gone; the work finds out by itself
			}
		}
	}
}

// remote is the content that a client has. Pieces of all blobs come over one stream in
// turn: whoever reads slowly holds up the others, and all go on as long as each is read.
type remote struct {
	wire *wire

	mu    sync.Mutex
	next  uint64
	blobs map[uint64]*io.PipeWriter // nil once the stream has ended
	err   error                     // why it has
}

// Open implements image.Content.
func (r *remote) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	in, out := io.Pipe()
	r.mu.Lock()
	if r.blobs == nil {
		defer r.mu.Unlock()
		return nil, r.err
	}
	id := r.next
	r.next++
	r.blobs[id] = out
	r.mu.Unlock()
	if err := r.wire.send(frame{Want: &want{ID: id, Blob: desc}}); err != nil {
		return nil, fmt.Errorf("ask client for blob: %w: %w", errdefs.ErrUnavailable, err)
	}
	return in, nil
}

// run hands pieces to those who read them, until the stream ends.
func (r *remote) run() {
	for {
		f, id, piece, err := r.wire.receive()
		if err != nil {
			r.end(fmt.Errorf("read from client: %w: %w", errdefs.ErrUnavailable, err))
			return
		}
		if f.End != nil {
			id = f.End.ID
		}
		r.mu.Lock()
		to := r.blobs[id]
		if f.End != nil {
			delete(r.blobs, id)
		}
		r.mu.Unlock()
		switch {
		case to == nil:
		case piece != nil:
			_, _ = to.Write(piece) // fails if the reader has given up, which it says itself
		case f.End != nil:
			to.CloseWithError(f.End.reason())
		}
	}
}

func (r *remote) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.blobs {
		b.CloseWithError(err)
	}
	r.blobs, r.err = nil, err
}

// reason is nil for a blob that was sent whole.
func (e *end) reason() error {
	switch {
	case e.NotFound:
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, errors.New(e.Error))
	case e.Error != "":
		return fmt.Errorf("client: %w: %w", errdefs.ErrFailedPrecondition, errors.New(e.Error))
	}
	return nil
}
