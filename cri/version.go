package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Version names the runtime. The first field is the kubelet's API version, which has
// been 0.1.0 for ever.
func (s *Server) Version(context.Context, *v1.VersionRequest) (*v1.VersionResponse, error) {
	return &v1.VersionResponse{
		Version:           "0.1.0",
		RuntimeName:       "cricket",
		RuntimeVersion:    s.opts.Version,
		RuntimeApiVersion: "v1",
	}, nil
}
