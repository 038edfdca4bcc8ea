package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PortForward answers the URL of a session with ports of a ready sandbox.
func (s *Server) PortForward(_ context.Context, req *v1.PortForwardRequest) (*v1.PortForwardResponse, error) {
	rec, _, err := s.readySandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return s.streams.GetPortForward(&v1.PortForwardRequest{PodSandboxId: rec.ID, Port: req.GetPort()})
}
