package operator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/cricket-cri/cricket/runtime/image"
)

// Client asks a daemon. It is safe for concurrent use.
type Client struct{ conn grpc.ClientConnInterface }

// NewClient makes a client on a connection to the daemon's socket.
func NewClient(conn grpc.ClientConnInterface) *Client { return &Client{conn} }

// Import hands an image over to the daemon. Errors of the daemon are gRPC statuses. report
// may be nil; it is called by one goroutine.
func (c *Client) Import(ctx context.Context, what image.Import, from image.Content, report func(image.LayerProgress)) (image.Image, error) {
	return c.call(ctx, importCall, frame{Import: &what}, from, report)
}

// Prefetch has the daemon pull an image. It joins a pull that is under way, without
// hearing of its progress.
func (c *Client) Prefetch(ctx context.Context, ref string, report func(image.LayerProgress)) (image.Image, error) {
	return c.call(ctx, pullCall, frame{Pull: ref}, nil, report)
}

func (c *Client) call(ctx context.Context, method string, first frame, from image.Content, report func(image.LayerProgress)) (image.Image, error) {
	ctx, cancel := context.WithCancel(ctx)
	var supplies sync.WaitGroup
	defer supplies.Wait()
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}, "/"+service+"/"+method)
	if err != nil {
		return image.Image{}, err
	}
	w := &wire{stream: stream}
	if err := w.send(first); err != nil && !errors.Is(err, io.EOF) { // else the reason is received
		return image.Image{}, err
	}
	for {
		f, _, _, err := w.receive()
		switch {
		case err != nil:
			return image.Image{}, err
		case f.Image != nil:
			return *f.Image, nil
		case f.Progress != nil && report != nil:
			report(*f.Progress)
		case f.Want != nil && from != nil:
			supplies.Go(func() { supply(ctx, w, *f.Want, from) })
		}
	}
}

// supply sends a blob. An error to send it needs no care: the stream has ended then, and
// whoever receives finds out why.
func supply(ctx context.Context, w *wire, what want, from image.Content) {
	e := end{ID: what.ID}
	if err := copyBlob(ctx, w, what, from); err != nil {
		e.Error, e.NotFound = err.Error(), errdefs.IsNotFound(err)
	}
	_ = w.send(frame{End: &e}) // see above
}

func copyBlob(ctx context.Context, w *wire, what want, from image.Content) error {
	rc, err := from.Open(ctx, what.Blob)
	if err != nil {
		return err
	}
	defer rc.Close()
	for {
		piece := make([]byte, pieceHead+pieceSize) // grpc may keep it
		piece[0] = pieceMark
		binary.BigEndian.PutUint64(piece[1:], what.ID)
		n, err := io.ReadFull(rc, piece[pieceHead:])
		if n > 0 {
			if err := w.sendRaw(piece[:pieceHead+n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read blob: %w", err)
		}
	}
}
