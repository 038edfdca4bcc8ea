package cri

import (
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// GetContainerEvents streams what happens from now on, until the client leaves or is
// too slow to follow (ResourceExhausted).
func (s *Server) GetContainerEvents(_ *v1.GetEventsRequest, stream grpc.ServerStreamingServer[v1.ContainerEventResponse]) error {
	sub := s.events.Subscribe()
	defer sub.Cancel()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case e, ok := <-sub.Events():
			if !ok {
				return sub.Err()
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// emit publishes an event about a sandbox or one of its containers; id is the one that
// it is about. The pod as it is now goes with it, so that a client need not ask.
func (s *Server) emit(kind v1.ContainerEventType, sb *store.Sandbox, id string) {
	s.events.Publish(func() *v1.ContainerEventResponse {
		if now, err := s.store.Sandboxes.Get(sb.ID); err == nil {
			sb = now
		}
		return &v1.ContainerEventResponse{
			ContainerId:        id,
			ContainerEventType: kind,
			CreatedAt:          time.Now().UnixNano(),
			PodSandboxStatus:   sandboxStatus(sb),
			ContainersStatuses: s.containerStatuses(sb.ID),
		}
	})
}

// emitContainer is emit for a container whose sandbox may be gone already.
func (s *Server) emitContainer(kind v1.ContainerEventType, c *store.Container) {
	sb, err := s.store.Sandboxes.Get(c.SandboxID)
	if err != nil {
		return
	}
	s.emit(kind, sb, c.ID)
}
