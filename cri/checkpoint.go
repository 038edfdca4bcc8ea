package cri

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var errNoCheckpoint = fmt.Errorf("checkpoint and restore are not part of this version of Cricket: %w", errdefs.ErrNotImplemented)

// CheckpointContainer is not supported yet.
func (*Server) CheckpointContainer(context.Context, *v1.CheckpointContainerRequest) (*v1.CheckpointContainerResponse, error) {
	return nil, errNoCheckpoint
}

// CheckpointPod is not supported yet.
func (*Server) CheckpointPod(context.Context, *v1.CheckpointPodRequest) (*v1.CheckpointPodResponse, error) {
	return nil, errNoCheckpoint
}

// RestorePod is not supported yet.
func (*Server) RestorePod(context.Context, *v1.RestorePodRequest) (*v1.RestorePodResponse, error) {
	return nil, errNoCheckpoint
}
