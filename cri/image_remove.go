package cri

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/ops"
)

// removeImageBudget is ample: removing is an unlink for each layer.
const removeImageBudget = 2 * time.Minute

// RemoveImage removes the image that a reference leads to, with all its tags. One that
// is not there is removed already.
func (s *Server) RemoveImage(ctx context.Context, req *v1.RemoveImageRequest) (*v1.RemoveImageResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image is empty: %w", errdefs.ErrInvalidArgument)
	}
	name := ref
	switch img, err := s.opts.Images.Get(ref); {
	case err == nil:
		name = img.ID.String()
	case !errdefs.IsNotFound(err): // a removal that was cut short may have left layers
		return nil, err
	}
	op := ops.Spec{Key: ops.Key{Kind: "remove image", Name: name}, Budget: removeImageBudget}
	_, err := ops.Do(ctx, s.ops, op, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.opts.Images.Remove(ctx, name)
	})
	if err != nil {
		return nil, fmt.Errorf("remove image %q: %w", ref, err)
	}
	return &v1.RemoveImageResponse{}, nil
}
