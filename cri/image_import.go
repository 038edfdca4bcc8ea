package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/runtime/image"
)

// ImportImage brings in an image that the operator's tool has (cri/operator); the CRI has
// no call for it. It ends without a trace when the client goes. The same image under the
// same names is imported once.
func (s *Server) ImportImage(ctx context.Context, what image.Import, from image.Content) (image.Image, error) {
	if len(what.Names) == 0 {
		return image.Image{}, fmt.Errorf("import image: it has no name: %w", errdefs.ErrInvalidArgument)
	}
	text, err := json.Marshal(what)
	if err != nil {
		return image.Image{}, fmt.Errorf("import image: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	op := ops.Spec{
		Key:    ops.Key{Kind: "import image", Name: strings.Join(what.Names, " ")},
		Digest: digest.FromBytes(text).String(), Budget: pullBudget,
	}
	img, err := ops.Do(ctx, s.ops, op, func(ctx context.Context) (image.Image, error) {
		return s.opts.Images.Import(ctx, what, from)
	})
	if err != nil {
		return image.Image{}, fmt.Errorf("import image %q: %w", what.Names[0], err)
	}
	return img, nil
}
