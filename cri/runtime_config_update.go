package cri

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateRuntimeConfig takes note of the node's pod CIDR. Nothing follows from it: the
// CNI configuration says which addresses pods get, and Cricket writes none itself.
func (s *Server) UpdateRuntimeConfig(_ context.Context, req *v1.UpdateRuntimeConfigRequest) (*v1.UpdateRuntimeConfigResponse, error) {
	cidrs := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if cidrs == "" {
		return &v1.UpdateRuntimeConfigResponse{}, nil
	}
	for cidr := range strings.SplitSeq(cidrs, ",") {
		if _, err := netip.ParsePrefix(strings.TrimSpace(cidr)); err != nil {
			return nil, fmt.Errorf("runtime_config.network_config.pod_cidr: %w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	s.log.Info("pod CIDR is known; the CNI configuration decides on addresses", "cidr", cidrs)
	return &v1.UpdateRuntimeConfigResponse{}, nil
}
