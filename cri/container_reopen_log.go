package cri

import (
	"context"
	"fmt"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ReopenContainerLog makes the container write to a new file under its log's name.
func (s *Server) ReopenContainerLog(ctx context.Context, req *v1.ReopenContainerLogRequest) (*v1.ReopenContainerLogResponse, error) {
	_, c, err := s.runningContainer(req.GetContainerId(), "reopen log of")
	if err != nil {
		return nil, err
	}
	if err := c.ReopenLog(ctx); err != nil {
		return nil, fmt.Errorf("reopen container log: %w", err)
	}
	return &v1.ReopenContainerLogResponse{}, nil
}
