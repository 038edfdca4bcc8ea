package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errNoCheckpoint = fmt.Errorf("checkpoint of a single container is not part of this version of Cricket: %w", errdefs.ErrNotImplemented)

// CheckpointContainer is not supported yet.
func (*Server) CheckpointContainer(context.Context, *v1.CheckpointContainerRequest) (*v1.CheckpointContainerResponse, error) {
	return nil, errNoCheckpoint
}
