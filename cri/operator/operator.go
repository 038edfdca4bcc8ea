// Package operator is what the daemon offers its operator's tool beyond the CRI, on the
// same socket: imports, whose layers the tool hands over as the daemon asks for them, and
// pulls that show their progress. Both ends are here. They are of one version, so the
// messages are no promise to anybody else: JSON, and raw pieces of layers.
package operator

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cricket-cri/cricket/runtime/image"
)

// Server is what answers. Its contexts carry image.WithProgress.
type Server interface {
	// ImportImage brings an image in whose content the client has.
	ImportImage(ctx context.Context, what image.Import, from image.Content) (image.Image, error)
	// PrefetchImage pulls an image without a credential of its own.
	PrefetchImage(ctx context.Context, ref string) (image.Image, error)
}

const (
	service    = "cricket.operator.v1.Operator"
	importCall = "Import"
	pullCall   = "Prefetch"
)

// Register puts the service on g.
func Register(g grpc.ServiceRegistrar, s Server) {
	g.RegisterService(&grpc.ServiceDesc{
		ServiceName: service, HandlerType: (*Server)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: importCall, Handler: serveImport, ServerStreams: true, ClientStreams: true},
			{StreamName: pullCall, Handler: servePull, ServerStreams: true, ClientStreams: true},
		},
	}, s)
}

// frame is one message but for pieces of layers. One field is set.
type frame struct {
	Import   *image.Import        `json:"import,omitempty"` // the client's first
	Pull     string               `json:"pull,omitempty"`   // the client's first
	Want     *want                `json:"want,omitempty"`   // the daemon asks for a blob
	End      *end                 `json:"end,omitempty"`    // the client has sent all of it
	Progress *image.LayerProgress `json:"progress,omitempty"`
	Image    *image.Image         `json:"image,omitempty"` // the daemon's last
}

type want struct {
	ID   uint64             `json:"id"`
	Blob ocispec.Descriptor `json:"blob"`
}

type end struct {
	ID       uint64 `json:"id"`
	Error    string `json:"error,omitempty"`
	NotFound bool   `json:"notFound,omitempty"`
}

// pieceSize is the most bytes of a layer in one message.
const pieceSize = 256 << 10

// A piece begins with pieceMark, which no JSON does, and the number of its blob.
const (
	pieceMark = 0
	pieceHead = 9
)

// wire is either end of a stream. Frames may be sent by several goroutines.
type wire struct {
	stream interface {
		SendMsg(m any) error
		RecvMsg(m any) error
	}
	mu sync.Mutex // grpc allows one sender
}

func (w *wire) send(f frame) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return w.sendRaw(raw)
}

func (w *wire) sendRaw(raw []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stream.SendMsg(&wrapperspb.BytesValue{Value: raw})
}

// receive returns a frame, or a piece of a blob if that is not nil.
func (w *wire) receive() (f frame, id uint64, piece []byte, err error) {
	var m wrapperspb.BytesValue
	if err := w.stream.RecvMsg(&m); err != nil {
		return f, 0, nil, err
	}
	raw := m.GetValue()
	if len(raw) >= pieceHead && raw[0] == pieceMark {
		return f, binary.BigEndian.Uint64(raw[1:]), raw[pieceHead:], nil
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return f, 0, nil, fmt.Errorf("decode message: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return f, 0, nil, nil
}
