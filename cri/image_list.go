package cri

import (
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime/image"
)

// ListImages answers from memory. A filter leaves the image that its reference leads to.
func (s *Server) ListImages(_ context.Context, req *v1.ListImagesRequest) (*v1.ListImagesResponse, error) {
	images, err := s.listImages(req.GetFilter())
	return &v1.ListImagesResponse{Images: images}, err
}

// StreamImages is ListImages in parts.
func (s *Server) StreamImages(req *v1.StreamImagesRequest, stream grpc.ServerStreamingServer[v1.StreamImagesResponse]) error {
	images, err := s.listImages(req.GetFilter())
	if err != nil {
		return err
	}
	return inBatches(images, func(part []*v1.Image) error {
		return stream.Send(&v1.StreamImagesResponse{Images: part})
	})
}

func (s *Server) listImages(f *v1.ImageFilter) ([]*v1.Image, error) {
	if ref := f.GetImage().GetImage(); ref != "" {
		img, err := s.opts.Images.Get(ref)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*v1.Image{convertImage(img)}, nil
	}
	var images []*v1.Image
	for _, img := range s.opts.Images.List() {
		images = append(images, convertImage(img))
	}
	return images, nil
}

func convertImage(i image.Image) *v1.Image {
	uid, username := i.User()
	img := &v1.Image{
		Id:          i.ID.String(),
		RepoTags:    i.RepoTags,
		RepoDigests: i.RepoDigests,
		Size:        i.Size,
		Username:    username,
		Pinned:      i.Pinned,
		Spec:        &v1.ImageSpec{Image: i.ID.String(), Annotations: map[string]string{}},
	}
	if uid != nil {
		img.Uid = &v1.Int64Value{Value: *uid}
	}
	return img
}
