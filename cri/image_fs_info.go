package cri

import (
	"context"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageFsInfo tells what images occupy. Writable layers lie on the same file system,
// which is what two equal mount points tell the kubelet; what they occupy is in the
// containers' stats.
func (s *Server) ImageFsInfo(context.Context, *v1.ImageFsInfoRequest) (*v1.ImageFsInfoResponse, error) {
	u, err := s.opts.Images.Usage()
	if err != nil {
		return nil, err
	}
	fs := []*v1.FilesystemUsage{{
		Timestamp:  nanos(u.At),
		FsId:       &v1.FilesystemIdentifier{Mountpoint: s.opts.ImageDir},
		UsedBytes:  &v1.UInt64Value{Value: u.Bytes},
		InodesUsed: &v1.UInt64Value{Value: u.Inodes},
	}}
	return &v1.ImageFsInfoResponse{ImageFilesystems: fs, ContainerFilesystems: fs}, nil
}
