package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Attach answers the URL of a session with the own process of a running container.
func (s *Server) Attach(_ context.Context, req *v1.AttachRequest) (*v1.AttachResponse, error) {
	rec, _, err := s.runningContainer(req.GetContainerId(), "attach to")
	if err != nil {
		return nil, err
	}
	return s.streams.GetAttach(&v1.AttachRequest{
		ContainerId: rec.ID,
		Tty:         req.GetTty(),
		Stdin:       req.GetStdin(),
		Stdout:      req.GetStdout(),
		Stderr:      req.GetStderr(),
	})
}
