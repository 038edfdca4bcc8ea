package runtime

import (
	"context"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// Container is one live container, whatever it runs in. All methods are safe for
// concurrent use. A method on a container that is gone answers errdefs.ErrNotFound;
// one that does not fit the state answers errdefs.ErrFailedPrecondition.
type Container interface {
	// State says what is known now, without blocking on the container.
	State(ctx context.Context) (State, error)
	// Start runs the process that the container was created for.
	Start(ctx context.Context) error
	// Signal sends sig to the container's init process. SIGKILL ends every process
	// of the container. Signalling an exited container is not an error.
	Signal(ctx context.Context, sig unix.Signal) error
	// Wait blocks until the container has exited. It may be called any number of
	// times, after a daemon restart too. When the whole sandbox is gone, with whatever
	// knew how the container ended, it answers Exit.Unknown rather than an error.
	Wait(ctx context.Context) (Exit, error)
	// Exec runs one more process in the container and blocks until it has ended and
	// its output has been delivered. Ending ctx gives up the streams, never the
	// process: that goes on, with its timeout.
	Exec(ctx context.Context, c ExecConfig) (Exit, error)
	// Attach connects streams to the container's init until it exits, ctx ends or,
	// where there is only standard input, that reached its end.
	Attach(ctx context.Context, s Streams) error
	// Update changes resource limits at once.
	Update(ctx context.Context, r *Resources) error
	// Stat fills s with current figures. Figures that are not available stay nil.
	Stat(ctx context.Context, s *Stat) error
	// ReopenLog closes the log file and opens its path anew (log rotation).
	ReopenLog(ctx context.Context) error
	// Remove deletes what the container left: processes, cgroup, root file system.
	// It is idempotent.
	Remove(ctx context.Context) error
}

// Checkpointer is a Container whose processes' state can be written to disk while they go
// on.
type Checkpointer interface {
	// Checkpoint fills the directory dir, which is empty but for directories (see package
	// checkpoint). The container stands still meanwhile, at most for timeout, and goes on
	// in the end, whatever happens. errdefs.ErrFailedPrecondition says why it cannot be.
	Checkpoint(ctx context.Context, dir string, timeout time.Duration) error
}

// Phase is where a container is in its life.
type Phase string

// The phases of a container, in order.
const (
	Created Phase = "created"
	Running Phase = "running"
	Exited  Phase = "exited"
)

// State is what a hull knows of a container.
type State struct {
	Phase Phase
	// Pid is the init process in the host's PID namespace, 0 if there is none that
	// the host can see.
	Pid       int
	StartedAt time.Time // zero until started
	Exit      Exit      // valid if Phase is Exited
}

// Exit is how a process ended.
type Exit struct {
	// Code is the exit code, or 128+n for signal n.
	Code int32
	At   time.Time
	// OOMKilled: the kernel killed a process of the container for want of memory.
	OOMKilled bool
	// TimedOut: the process was killed because ExecConfig.Timeout passed.
	TimedOut bool
	// Unknown: the process is gone and nothing on this machine knows its exit code.
	// Code is -1 then, never an invented 0 or 137.
	Unknown bool
}

// Streams are the ends that an exec or attach session is connected to. Nil fields
// are not connected.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Terminal: the session talks to a pseudo-terminal; Stderr is unused then.
	Terminal bool
	// Resize delivers terminal sizes; it may be nil. The session stops reading from
	// it when it ends.
	Resize <-chan Size
}

// Size is a terminal's size in characters.
type Size struct {
	Width  uint16
	Height uint16
}

// ExecConfig describes a process to run in an existing container. It inherits user,
// environment, capabilities and limits from the container's own process.
type ExecConfig struct {
	Args    []string
	Streams Streams
	// Timeout kills the process and all its descendants; 0 means none.
	Timeout time.Duration
}
