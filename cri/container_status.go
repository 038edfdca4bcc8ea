package cri

import (
	"context"
	"encoding/json"

	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// ContainerStatus answers from memory.
func (s *Server) ContainerStatus(_ context.Context, req *v1.ContainerStatusRequest) (*v1.ContainerStatusResponse, error) {
	rec, err := s.store.Containers.Find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	resp := &v1.ContainerStatusResponse{Status: s.containerStatus(rec)}
	if req.GetVerbose() {
		if resp.Info, err = containerInfo(rec); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// containerStatuses are those of all containers of a sandbox, the oldest first.
func (s *Server) containerStatuses(sandboxID string) []*v1.ContainerStatus {
	var all []*v1.ContainerStatus
	for _, c := range s.store.ContainersOf(sandboxID) {
		if !c.Pending() {
			all = append(all, s.containerStatus(c))
		}
	}
	return all
}

func (s *Server) containerStatus(r *store.Container) *v1.ContainerStatus {
	st := &v1.ContainerStatus{
		Id:          r.ID,
		Metadata:    r.Config.GetMetadata(),
		State:       r.State(),
		CreatedAt:   nanos(r.CreatedAt),
		StartedAt:   nanos(r.StartedAt),
		FinishedAt:  nanos(r.FinishedAt),
		ExitCode:    r.ExitCode,
		Image:       imageSpec(r),
		ImageRef:    r.ImageRef,
		ImageId:     r.ImageID,
		Reason:      r.Reason,
		Message:     r.Message,
		Labels:      r.Config.GetLabels(),
		Annotations: r.Config.GetAnnotations(),
		Mounts:      statusMounts(r),
		LogPath:     r.LogPath,
		Resources:   statusResources(r.Resources),
		StopSignal:  statusSignal(r.StopSignal),
		User:        statusUser(r.User),
	}
	if r.Broken != "" {
		st.Reason, st.Message, st.User = "Unknown", r.Broken, nil
	}
	return st
}

// statusMounts are the mounts as they were asked for, image volumes with the id of the image
// that is mounted: what PullImage answered, which critest and the kubelet go by, not the
// digest in a repository that a container's image_ref is.
func statusMounts(r *store.Container) []*v1.Mount {
	if len(r.VolumeRefs) == 0 {
		return r.Config.GetMounts()
	}
	var all []*v1.Mount
	for _, m := range r.Config.GetMounts() {
		if ref := r.VolumeRefs[m.GetContainerPath()]; ref != "" && m.GetImage() != nil {
			m = proto.CloneOf(m)
			m.Image.ImageRef = ref
		}
		all = append(all, m)
	}
	return all
}

// imageSpec is the image as the user named it, as far as is known.
func imageSpec(r *store.Container) *v1.ImageSpec {
	spec := &v1.ImageSpec{
		Image:              r.Config.GetImage().GetImage(),
		Annotations:        r.Config.GetImage().GetAnnotations(),
		UserSpecifiedImage: r.Config.GetImage().GetUserSpecifiedImage(),
		RuntimeHandler:     r.Config.GetImage().GetRuntimeHandler(),
	}
	if r.ImageName != "" {
		spec.Image = r.ImageName
	}
	return spec
}

func containerInfo(r *store.Container) (map[string]string, error) {
	config, err := protoJSON(r.Config)
	if err != nil {
		return nil, err
	}
	return infoMap(struct {
		SandboxID string          `json:"sandboxID"`
		Pid       int             `json:"pid"`
		ImageID   string          `json:"imageID"`
		Broken    string          `json:"broken,omitempty"`
		Config    json.RawMessage `json:"config"`
	}{r.SandboxID, r.Pid, r.ImageID, r.Broken, config})
}
