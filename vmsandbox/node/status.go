package node

import (
	"fmt"

	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/accel"
	"github.com/cricket-cri/cricket/vmsandbox/template"
)

// Status is what a node says of its virtual machines.
type Status struct {
	Accelerator accel.Verdict `json:"accelerator"`
	// Rootfs is how machines read images.
	Rootfs vmsandbox.Rootfs `json:"rootfs,omitempty"`
	Error  string           `json:"error,omitempty"`
	Pool   template.Status  `json:"pool"`

	known bool // how machines run, or that they cannot
}

// Status does not wait.
func (n *Node) Status() (s Status) {
	select {
	case <-n.ready:
	default:
		s.Pool.Reason = "the accelerator is being chosen"
		return s
	}
	s.known, s.Accelerator, s.Rootfs = true, n.verdict, n.rootfs
	if n.err != nil {
		s.Error = n.err.Error()
	}
	if n.pool != nil {
		s.Pool = n.pool.Status()
	}
	return s
}

// Ready is the type of the condition that tells whether pods can be virtual machines.
const Ready = "VirtualMachinesReady"

// Condition says in short whether pods can be virtual machines.
type Condition struct {
	// Type is Ready; Reason is a single word, Message is for people.
	Type, Reason, Message string
	Status                bool
}

// Condition is true from when it is known how machines run: claims may be slow while there
// is no template, but they succeed.
func (s Status) Condition() Condition {
	c := Condition{Type: Ready}
	switch {
	case !s.known:
		c.Reason, c.Message = "Starting", s.Pool.Reason
	case s.Error != "":
		c.Reason, c.Message = "CannotRun", s.Error
	case !s.Pool.Ready:
		c.Status, c.Reason = true, "NoTemplate"
	default:
		c.Status, c.Reason = true, "Ready"
	}
	if c.Status {
		c.Message = fmt.Sprintf("accelerator %s; %s; %d of %d machines wait", s.Accelerator.Accelerator, s.Pool.Reason, s.Pool.Parked, s.Pool.Size)
	}
	return c
}
