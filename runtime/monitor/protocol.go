package monitor

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
	"github.com/cricket-cri/cricket/runtime/wirekind"
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
	// MirrorNames: MirrorRequest.Name and From are understood.
	MirrorNames bool `json:"mirrorNames,omitempty"`
}

// CreateRequest describes a container whose bundle lies ready, or comes with it.
type CreateRequest struct {
	ID string `json:"id"`
	// Sandbox is whose container this is: List tells it, nothing else depends on it.
	Sandbox string `json:"sandbox,omitempty"`
	// Bundle is the absolute path of the OCI bundle, with its config.json.
	Bundle string `json:"bundle"`
	// Spec, if set, becomes the bundle's config.json. The bundle is made if it is
	// missing; Delete removes both, the bundle if nothing else is in it.
	Spec    *specs.Spec `json:"spec,omitempty"`
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
	// Kind is empty for a container. Later monitors may know more kinds.
	Kind string `json:"kind,omitempty"`
	ID   string `json:"id"`
	// Sandbox, Bundle and State are those of a container; a process has no Bundle.
	Sandbox string        `json:"sandbox,omitempty"`
	Bundle  string        `json:"bundle"`
	State   runtime.State `json:"state"`
}

// Kinds of what is no container.
const (
	KindHold    = "hold"    // what Hold made and Release ends
	KindProcess = "process" // what Spawn started
	KindMirror  = "mirror"  // what Mirror began
)

// MirrorRequest asks for the log of a container in a guest, whose monitor has it, to be
// brought into a file of this machine.
type MirrorRequest struct {
	// ID is the container's here. Name is what the guest calls it, if that is something else;
	// monitors that do not know the field take the ID (Info.MirrorNames).
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	// From is where in the guest's log the mirror begins, in bytes.
	From int64 `json:"from,omitempty"`
	// Sandbox is whose log this is: List tells it, nothing else depends on it.
	Sandbox string `json:"sandbox,omitempty"`
	// Socket is the unix socket of the channel (runtime/mux) on which the guest offers
	// its monitor as GuestService. All mirrors of a socket share one connection; nobody
	// else may use it.
	Socket  string `json:"socket"`
	LogPath string `json:"logPath"`
	// MaxLogLine is that of the container; longer lines are rejected.
	MaxLogLine int `json:"maxLogLine,omitempty"`
	// MaxBytes bounds the file until ReopenLog makes a new one: what is more is dropped.
	// 0 is no limit.
	MaxBytes int64 `json:"maxBytes,omitempty"`
	// MaxRate bounds, in bytes a second, what is taken from the guest, of all its logs
	// together; 0 is 64 MiB. Where mirrors of a guest differ the last one counts.
	MaxRate int64 `json:"maxRate,omitempty"`
}

// SpawnRequest describes a program of the host that is to outlive its caller. Its ID is
// one among those of the containers.
type SpawnRequest struct {
	ID string `json:"id"`
	// Sandbox is whose process this is: List tells it, nothing else depends on it.
	Sandbox string `json:"sandbox,omitempty"`
	// Args are the program's absolute path and its arguments; Env is all of its
	// environment.
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`
	// Dir is the working directory; empty for /.
	Dir string `json:"dir,omitempty"`
	// Cgroup exists, below the hierarchies' roots; the program begins in it. Empty for
	// the monitor's own.
	Cgroup string `json:"cgroup,omitempty"`
	// LogPath is a plain file for standard output and error, of which it keeps the
	// beginning and the end, at most 1 MiB together. Empty discards them.
	LogPath string `json:"logPath,omitempty"`
}

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

// maxError is how long the text of an error may be: what an OCI runtime says names several
// paths, and the cause comes last.
const maxError = 4 << 10

// remoteError is an error that happened in the monitor, in its words as far as they are fit
// for logs and messages: it may be a guest's.
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
	return &remoteError{kind: wirekind.Named(r.Kind), text: wirekind.Clean(r.Error, maxError)}
}
