package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *Server) RuntimeConfig(context.Context, *v1.RuntimeConfigRequest) (*v1.RuntimeConfigResponse, error) {
	d := v1.CgroupDriver_CGROUPFS
	if s.opts.SystemdCgroup {
		d = v1.CgroupDriver_SYSTEMD
	}
	return &v1.RuntimeConfigResponse{Linux: &v1.LinuxRuntimeConfiguration{CgroupDriver: d}}, nil
}
