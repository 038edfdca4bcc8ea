package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// Version is the protocol that this package speaks; Oldest the lowest one that it
// still understands from the other side. Fields may be added without a new version:
// both sides ignore what they do not know.
const (
	Version = 1
	Oldest  = 1
)

// request is the first frame of a connection.
type request struct {
	Version int             `json:"v"`
	Oldest  int             `json:"oldest"`
	Op      string          `json:"op"`
	ID      string          `json:"id,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// response ends a call. On a call that streams, it comes after the streams.
type response struct {
	Version int             `json:"v"`
	Kind    string          `json:"kind,omitempty"`
	Error   string          `json:"error,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
}

// Info is what a monitor says of itself.
type Info struct {
	Version int    `json:"version"`
	Oldest  int    `json:"oldest"`
	Pid     int    `json:"pid"`
	BootID  string `json:"bootID"`
}

// CreateRequest describes a container whose bundle lies ready.
type CreateRequest struct {
	ID string `json:"id"`
	// Sandbox is whose container this is: List tells it, nothing else depends on it.
	Sandbox string `json:"sandbox,omitempty"`
	// Bundle is the absolute path of the OCI bundle, with its config.json.
	Bundle  string      `json:"bundle"`
	Runtime oci.Runtime `json:"runtime"`
	// Rootfs is mounted at its Target below the bundle, for the container alone; with
	// an empty Target the bundle's root is there already. Overlays likewise.
	Rootfs   Overlay   `json:"rootfs"`
	Overlays []Overlay `json:"overlays,omitempty"`

	Terminal  bool `json:"terminal,omitempty"`
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// LogPath is the CRI log; empty discards output.
	LogPath string `json:"logPath,omitempty"`
	// MaxLogLine is in bytes; 0 for logfile.DefaultMaxLine.
	MaxLogLine int `json:"maxLogLine,omitempty"`
	// KillAll: the container's init does not own its PID namespace, so the rest of the
	// cgroup is killed when it exits.
	KillAll bool `json:"killAll,omitempty"`
	// Cgroup is the container's cgroup below the hierarchies' roots. Empty: it is
	// found through the init process.
	Cgroup string `json:"cgroup,omitempty"`
}

// Overlay is a stack of read-only directories, with or without a writable one on top.
type Overlay struct {
	// Target is the mount point below the bundle; it is made if it is missing.
	Target string `json:"target,omitempty"`
	// Lower lists absolute directories, the lowest first.
	Lower []string `json:"lower,omitempty"`
	// Upper and Work are empty for a read-only mount.
	Upper string `json:"upper,omitempty"`
	Work  string `json:"work,omitempty"`
	// Options are further overlay options: KEY or KEY=VALUE.
	Options []string `json:"options,omitempty"`
	// UserNS is the path of a user namespace into which the lowers are id-mapped.
	UserNS string `json:"userNS,omitempty"`
	// SubPath is the directory in the stack that is shown, resolved inside the stack.
	SubPath string `json:"subPath,omitempty"`
}

// Created is a container's init process.
type Created struct {
	Pid int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat; with the pid it names the process.
	StartTime uint64 `json:"startTime"`
}

// Entry is one thing that a monitor supervises.
type Entry struct {
	// Kind is empty for a container, or KindHold. Later monitors may know more kinds.
	Kind string `json:"kind,omitempty"`
	ID   string `json:"id"`
	// Sandbox, Bundle and State are those of a container.
	Sandbox string        `json:"sandbox,omitempty"`
	Bundle  string        `json:"bundle"`
	State   runtime.State `json:"state"`
}

// KindHold is the Kind of what Hold made and Release ends.
const KindHold = "hold"

// ExecRequest describes one more process in a running container.
type ExecRequest struct {
	Process specs.Process `json:"process"`
	// Timeout kills the process and its descendants; 0 is none.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Stdin, Stdout and Stderr say which streams are connected; Exec sets them.
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// HoldRequest asks for a process that does nothing but keep namespaces alive, and
// reaps, as process 1, where a PID namespace is among them.
type HoldRequest struct {
	ID          string                     `json:"id"`
	Namespaces  []specs.LinuxNamespaceType `json:"namespaces"`
	UIDMappings []specs.LinuxIDMapping     `json:"uidMappings,omitempty"`
	GIDMappings []specs.LinuxIDMapping     `json:"gidMappings,omitempty"`
}

type signalRequest struct {
	Signal unix.Signal `json:"signal"`
}

type attachRequest struct {
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

type startReply struct {
	At time.Time `json:"at"`
}

type holdReply struct {
	Pid int `json:"pid"`
}

// kinds are the errors that keep their kind across the connection.
func kinds() map[string]error {
	return map[string]error{
		"not_found":           errdefs.ErrNotFound,
		"already_exists":      errdefs.ErrAlreadyExists,
		"invalid_argument":    errdefs.ErrInvalidArgument,
		"failed_precondition": errdefs.ErrFailedPrecondition,
		"unavailable":         errdefs.ErrUnavailable,
		"resource_exhausted":  errdefs.ErrResourceExhausted,
		"unimplemented":       errdefs.ErrNotImplemented,
		"permission_denied":   errdefs.ErrPermissionDenied,
		"canceled":            context.Canceled,
		"deadline_exceeded":   context.DeadlineExceeded,
	}
}

func kindOf(err error) string {
	for name, kind := range kinds() {
		if errors.Is(err, kind) {
			return name
		}
	}
	return "internal"
}

// remoteError is an error that happened in the monitor.
type remoteError struct {
	kind error
	text string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

func (r *response) err() error {
	if r.Kind == "" && r.Error == "" {
		return nil
	}
	kind, ok := kinds()[r.Kind]
	if !ok {
		kind = errdefs.ErrInternal
	}
	return &remoteError{kind: kind, text: r.Error}
}
