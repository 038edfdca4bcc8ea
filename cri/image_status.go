package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageStatus answers from memory; an image that is not there is no error, but an
// answer without an image.
func (s *Server) ImageStatus(_ context.Context, req *v1.ImageStatusRequest) (*v1.ImageStatusResponse, error) {
	ref := req.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image is empty: %w", errdefs.ErrInvalidArgument)
	}
	img, err := s.opts.Images.Get(ref)
	if errdefs.IsNotFound(err) {
		return &v1.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &v1.ImageStatusResponse{Image: convertImage(img)}
	if req.GetVerbose() {
		resp.Info, err = infoMap(struct {
			ImageSpec ocispec.Image   `json:"imageSpec"`
			Layers    []digest.Digest `json:"layers"`
			Artifact  string          `json:"artifactType,omitempty"`
		}{img.Config, img.Layers, img.Artifact})
	}
	return resp, err
}
