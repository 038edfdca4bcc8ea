package cri

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// ListContainers answers from memory.
func (s *Server) ListContainers(_ context.Context, req *v1.ListContainersRequest) (*v1.ListContainersResponse, error) {
	return &v1.ListContainersResponse{Containers: s.listContainers(req.GetFilter())}, nil
}

// StreamContainers is ListContainers in parts.
func (s *Server) StreamContainers(req *v1.StreamContainersRequest, stream grpc.ServerStreamingServer[v1.StreamContainersResponse]) error {
	return inBatches(s.listContainers(req.GetFilter()), func(part []*v1.Container) error {
		return stream.Send(&v1.StreamContainersResponse{Containers: part})
	})
}

func (s *Server) listContainers(f *v1.ContainerFilter) []*v1.Container {
	var items []*v1.Container
	for _, r := range s.store.Containers.List() {
		if !r.Pending() && containerMatches(f, r) {
			items = append(items, &v1.Container{
				Id:           r.ID,
				PodSandboxId: r.SandboxID,
				Metadata:     r.Config.GetMetadata(),
				Image:        r.Config.GetImage(),
				ImageRef:     r.ImageID,
				ImageId:      r.ImageID,
				State:        r.State(),
				CreatedAt:    nanos(r.CreatedAt),
				Labels:       r.Config.GetLabels(),
				Annotations:  r.Config.GetAnnotations(),
			})
		}
	}
	return items
}

func containerMatches(f *v1.ContainerFilter, r *store.Container) bool {
	return strings.HasPrefix(r.ID, f.GetId()) &&
		strings.HasPrefix(r.SandboxID, f.GetPodSandboxId()) &&
		(f.GetState() == nil || f.GetState().GetState() == r.State()) &&
		hasLabels(r.Config.GetLabels(), f.GetLabelSelector())
}
