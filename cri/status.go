package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Status says whether pods can be run, and what they can have. Verbose, it shows the
// configuration and the operations under way.
func (s *Server) Status(ctx context.Context, req *v1.StatusRequest) (*v1.StatusResponse, error) {
	resp := &v1.StatusResponse{
		Status: &v1.RuntimeStatus{Conditions: []*v1.RuntimeCondition{
			{Type: v1.RuntimeReady, Status: true},
			s.networkCondition(ctx),
		}},
		RuntimeHandlers: s.handlers(),
		Features:        &v1.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true, UserNamespacesHostNetwork: true},
	}
	resp.Status.Conditions = append(resp.Status.Conditions, s.otherConditions()...)
	if !req.GetVerbose() {
		return resp, nil
	}
	under, err := json.Marshal(s.ops.List())
	if err != nil {
		return nil, fmt.Errorf("describe operations: %w", err)
	}
	resp.Info = map[string]string{"operations": string(under)}
	if s.opts.Info != nil {
		maps.Copy(resp.Info, s.opts.Info())
	}
	return resp, nil
}

// Condition is one that Status shows beside those of the API. The kubelet passes over
// types that it does not know.
type Condition struct {
	// Type and Reason are single words, Message is for people.
	Type, Reason, Message string
	Status                bool
}

func (s *Server) otherConditions() (all []*v1.RuntimeCondition) {
	if s.opts.Conditions == nil {
		return nil
	}
	for _, c := range s.opts.Conditions() {
		all = append(all, &v1.RuntimeCondition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
	}
	return all
}

func (s *Server) networkCondition(ctx context.Context) *v1.RuntimeCondition {
	c := &v1.RuntimeCondition{Type: v1.NetworkReady, Status: true}
	if err := s.opts.Network.Status(ctx); err != nil {
		c.Status, c.Reason, c.Message = false, "NetworkPluginNotReady", err.Error()
	}
	return c
}

// handlers lists the runtime handlers; the default one also under the empty name, by
// which pods without a RuntimeClass ask for it.
func (s *Server) handlers() []*v1.RuntimeHandler {
	var all []*v1.RuntimeHandler
	for _, name := range append([]string{""}, slices.Sorted(maps.Keys(s.opts.Drivers))...) {
		_, d, err := s.driver(name)
		if err != nil {
			continue
		}
		f := d.Features()
		all = append(all, &v1.RuntimeHandler{Name: name, Features: &v1.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: f.RecursiveReadOnlyMounts,
			UserNamespaces:          f.UserNamespaces,
		}})
	}
	return all
}
