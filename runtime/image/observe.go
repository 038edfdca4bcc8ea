package image

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayerProgress is how far a layer has come.
type LayerProgress struct {
	// Layer is the layer's diff id.
	Layer digest.Digest `json:"layer"`
	// Done and Total are bytes of the layer as it comes in, compressed or not. A layer
	// that was there already has Done zero and Present set.
	Done    int64 `json:"done"`
	Total   int64 `json:"total"`
	Present bool  `json:"present,omitempty"`
	// Stored: the layer is whole and on the disk.
	Stored bool `json:"stored,omitempty"`
}

type progressKey struct{}

// WithProgress returns a context whose pulls and imports report on their layers, each
// several times a second. report is called from several goroutines at once and must not
// block. Who joins a pull that is under way learns nothing of it.
func WithProgress(ctx context.Context, report func(LayerProgress)) context.Context {
	return context.WithValue(ctx, progressKey{}, report)
}

// layerReportEvery keeps reports from costing anything.
const layerReportEvery = 100 * time.Millisecond

// watchedLayer counts what is read of a layer.
type watchedLayer struct {
	from   io.Reader
	report func(LayerProgress) // nil if nobody asks
	state  LayerProgress
	last   time.Time
}

func watchLayer(ctx context.Context, id digest.Digest, desc ocispec.Descriptor, from io.Reader) *watchedLayer {
	report, _ := ctx.Value(progressKey{}).(func(LayerProgress))
	w := &watchedLayer{from: from, report: report, state: LayerProgress{Layer: id, Total: desc.Size}}
	if report != nil {
		report(w.state)
	}
	return w
}

func (w *watchedLayer) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	if w.report == nil {
		return n, err
	}
	w.state.Done += int64(n)
	if now := time.Now(); now.Sub(w.last) >= layerReportEvery {
		w.last = now
		w.report(w.state)
	}
	return n, err
}

func (w *watchedLayer) done() {
	if w.report != nil {
		w.state.Stored = true
		w.report(w.state)
	}
}

// present reports a layer that need not be read.
func present(ctx context.Context, id digest.Digest, desc ocispec.Descriptor) {
	if report, ok := ctx.Value(progressKey{}).(func(LayerProgress)); ok {
		report(LayerProgress{Layer: id, Total: desc.Size, Present: true, Stored: true})
	}
}
