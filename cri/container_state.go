package cri

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// transitions says what can be done to a container in which state. Stop and remove are
// not in it: they fit every state.
var transitions = map[string][]v1.ContainerState{
	"start":         {v1.ContainerState_CONTAINER_CREATED},
	"update":        {v1.ContainerState_CONTAINER_CREATED, v1.ContainerState_CONTAINER_RUNNING},
	"exec in":       {v1.ContainerState_CONTAINER_RUNNING},
	"attach to":     {v1.ContainerState_CONTAINER_RUNNING},
	"checkpoint":    {v1.ContainerState_CONTAINER_RUNNING},
	"reopen log of": {v1.ContainerState_CONTAINER_RUNNING},
}

// allow answers errdefs.ErrFailedPrecondition, naming the verb and the state, if a
// container in that state cannot be acted on so.
func allow(verb string, state v1.ContainerState) error {
	if slices.Contains(transitions[verb], state) {
		return nil
	}
	return fmt.Errorf("%s container in state %s: %w", verb, state, errdefs.ErrFailedPrecondition)
}
