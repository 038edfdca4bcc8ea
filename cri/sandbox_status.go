package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/store"
)

// PodSandboxStatus answers from memory, the pod's containers included. It leaves the
// time of the answer out: given one, a kubelet 1.37 with the gate EventedPLEG on takes the
// containers from here instead of asking for each, and then believes that none of them
// belongs to this sandbox, so that it runs the init containers again for ever.
func (s *Server) PodSandboxStatus(_ context.Context, req *v1.PodSandboxStatusRequest) (*v1.PodSandboxStatusResponse, error) {
	rec, err := s.store.Sandboxes.Find(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	resp := &v1.PodSandboxStatusResponse{
		Status:             sandboxStatus(rec),
		ContainersStatuses: s.containerStatuses(rec.ID),
	}
	if req.GetVerbose() {
		if resp.Info, err = s.sandboxInfo(rec); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func sandboxStatus(r *store.Sandbox) *v1.PodSandboxStatus {
	st := &v1.PodSandboxStatus{
		Id:             r.ID,
		Metadata:       r.Config.GetMetadata(),
		State:          r.State(),
		CreatedAt:      nanos(r.CreatedAt),
		Network:        &v1.PodSandboxNetworkStatus{},
		Linux:          &v1.LinuxPodSandboxStatus{Namespaces: &v1.Namespace{Options: namespaceOptions(r.Config)}},
		Labels:         r.Config.GetLabels(),
		Annotations:    r.Config.GetAnnotations(),
		RuntimeHandler: r.Requested,
	}
	if r.Released {
		return st // its addresses may be another's by now
	}
	for i, ip := range r.IPs {
		if i == 0 {
			st.Network.Ip = ip
		} else {
			st.Network.AdditionalIps = append(st.Network.AdditionalIps, &v1.PodIP{Ip: ip})
		}
	}
	return st
}

func namespaceOptions(c *v1.PodSandboxConfig) *v1.NamespaceOption {
	if o := c.GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return &v1.NamespaceOption{}
}

// nanos is the CRI's time: nanoseconds since 1970, 0 for a time that has not come.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (s *Server) sandboxInfo(r *store.Sandbox) (map[string]string, error) {
	config, err := protoJSON(r.Config)
	if err != nil {
		return nil, err
	}
	info := struct {
		Pid            int             `json:"pid"`
		RuntimeHandler string          `json:"runtimeHandler"`
		NetNS          string          `json:"netns,omitempty"`
		Cgroup         string          `json:"cgroup,omitempty"`
		Broken         string          `json:"broken,omitempty"`
		Config         json.RawMessage `json:"config"`
	}{RuntimeHandler: r.Handler, Broken: r.Broken, Config: config}
	if sb := s.live.sandbox(r.ID); sb != nil && r.Ready() {
		st := sb.Status()
		info.NetNS, info.Cgroup = st.NetNS, st.CgroupPath
	}
	return infoMap(info)
}

func protoJSON(m proto.Message) (json.RawMessage, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("describe configuration: %w", err)
	}
	return b, nil
}

func infoMap(info any) (map[string]string, error) {
	b, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	return map[string]string{"info": string(b)}, nil
}
