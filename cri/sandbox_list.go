package cri

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// ListPodSandbox answers from memory.
func (s *Server) ListPodSandbox(_ context.Context, req *v1.ListPodSandboxRequest) (*v1.ListPodSandboxResponse, error) {
	return &v1.ListPodSandboxResponse{Items: s.listSandboxes(req.GetFilter())}, nil
}

// One message of a streaming list carries at most so many items, and no more bytes
// unless a single item has them: clients take 16 MiB, many less.
const (
	streamBatch = 100
	streamBytes = 1 << 20
)

// StreamPodSandboxes is ListPodSandbox in parts.
func (s *Server) StreamPodSandboxes(req *v1.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[v1.StreamPodSandboxesResponse]) error {
	return inBatches(s.listSandboxes(req.GetFilter()), func(part []*v1.PodSandbox) error {
		return stream.Send(&v1.StreamPodSandboxesResponse{PodSandboxes: part})
	})
}

// inBatches sends items in parts, none of them empty.
func inBatches[T proto.Message](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n, size := 1, proto.Size(items[0])
		for ; n < min(streamBatch, len(items)); n++ {
			if size += proto.Size(items[n]); size > streamBytes {
				break
			}
		}
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

func (s *Server) listSandboxes(f *v1.PodSandboxFilter) []*v1.PodSandbox {
	var items []*v1.PodSandbox
	for _, r := range s.store.Sandboxes.List() {
		if !r.Pending() && sandboxMatches(f, r) {
			items = append(items, &v1.PodSandbox{
				Id:             r.ID,
				Metadata:       r.Config.GetMetadata(),
				State:          r.State(),
				CreatedAt:      nanos(r.CreatedAt),
				Labels:         r.Config.GetLabels(),
				Annotations:    r.Config.GetAnnotations(),
				RuntimeHandler: r.Requested,
			})
		}
	}
	return items
}

func sandboxMatches(f *v1.PodSandboxFilter, r *store.Sandbox) bool {
	return strings.HasPrefix(r.ID, f.GetId()) &&
		(f.GetState() == nil || f.GetState().GetState() == r.State()) &&
		hasLabels(r.Config.GetLabels(), f.GetLabelSelector())
}

func hasLabels(labels, selector map[string]string) bool {
	for k, want := range selector {
		if v, ok := labels[k]; !ok || v != want {
			return false
		}
	}
	return true
}
