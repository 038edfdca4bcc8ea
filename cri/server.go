package cri

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/cdi"
	"github.com/cricket-cri/cricket/cri/event"
	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/operator"
	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/runtime/flow"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/sandbox"
)

// Images is the image store, as far as the services need it (runtime/image.Store).
// References are tags, digests, image ids or unambiguous prefixes of them; an image
// that is not there is errdefs.ErrNotFound.
type Images interface {
	Pull(ctx context.Context, ref string, auth *image.Auth, options ...image.PullOption) (image.Image, error)
	// Allow is the signature policy's decision about a container in a namespace.
	Allow(id digest.Digest, ref, namespace string) error
	Import(ctx context.Context, what image.Import, from image.Content) (image.Image, error)
	Get(ref string) (image.Image, error)
	List() []image.Image
	Remove(ctx context.Context, ref string) error
	// Usage is what images occupy on the disk, layers included.
	Usage() (image.Usage, error)
}

// Layers reads files of images (runtime/layer.Store).
type Layers interface {
	// ReadFiles returns the named files as a container of the chain would see them;
	// files that do not exist are left out.
	ReadFiles(ctx context.Context, chain []digest.Digest, names ...string) (map[string][]byte, error)
}

// Network tells whether pods can be networked.
type Network interface {
	// Status is nil if they can; the error's text is the reason that operators read.
	Status(ctx context.Context) error
}

// Streams makes the URLs of streaming sessions (streaming.Server of
// k8s.io/cri-streaming).
type Streams interface {
	GetExec(*v1.ExecRequest) (*v1.ExecResponse, error)
	GetAttach(*v1.AttachRequest) (*v1.AttachResponse, error)
	GetPortForward(*v1.PortForwardRequest) (*v1.PortForwardResponse, error)
}

// Options are what a Server is made of.
type Options struct {
	// Drivers by name of the runtime handler. DefaultHandler serves requests that name
	// none, and must be one of them.
	Drivers        map[string]sandbox.Driver
	DefaultHandler string

	Images  Images
	Layers  Layers
	Network Network
	Store   *store.Store

	// CDI knows devices by name; nil refuses containers that ask for any.
	CDI *cdi.Registry

	// NRI says where plugins are; nil switches NRI off.
	NRI *nri.Options

	// Stats answers figures; nil takes a sampler with the default options.
	Stats *stat.Sampler

	// ImageDir is the directory that ImageFsInfo reports on.
	ImageDir string
	// CheckpointDir is where checkpoints of containers are put together: on a disk with
	// room for the memory of one. Nobody else may use it.
	CheckpointDir string
	// Version of the runtime, as Version answers it.
	Version string
	// Boot identifies the kernel's boot (/proc/sys/kernel/random/boot_id).
	Boot string
	// SystemdCgroup: containers are placed in cgroups by systemd.
	SystemdCgroup bool
	// Info is shown by Status if it is asked to be verbose: names to JSON texts.
	Info func() map[string]string
	// Conditions are shown by Status beside its own; nil for none. It must not wait.
	Conditions func() []Condition
	// Steps is told how long the steps of operations took; may be nil.
	Steps ops.StepTimer
	// Trace opens spans of what the server does by itself; may be nil. Calls bring their own
	// in their context.
	Trace flow.Tracer
	Log   *slog.Logger
}

// Server implements RuntimeService and ImageService. All methods are safe for
// concurrent use. Recover must have been called before it is registered.
//
// The Unimplemented servers are embedded so that RPCs that a later version of the API
// adds answer Unimplemented.
type Server struct {
	v1.UnimplementedRuntimeServiceServer
	v1.UnimplementedImageServiceServer

	opts    Options // never changed after New
	store   *store.Store
	live    *live
	ops     *ops.Table
	locks   *ops.Locks
	events  *event.Bus
	streams Streams // set once, before serving
	work    *work
	plugins *nri.Plugins // nil if switched off
	host    hostFacts    // without the features of a handler
	log     *slog.Logger
}

// New makes a server that knows nothing yet: call Recover, SetStreams and Register.
func New(o Options) (*Server, error) {
	if o.Drivers[o.DefaultHandler] == nil {
		return nil, fmt.Errorf("find default runtime handler %q: %w", o.DefaultHandler, errdefs.ErrNotFound)
	}
	host, err := readHost(o.Log)
	if err != nil {
		return nil, err
	}
	if o.Stats == nil {
		o.Stats = stat.New(stat.Options{})
	}
	s := &Server{
		host:   host,
		opts:   o,
		store:  o.Store,
		live:   newLive(),
		ops:    ops.NewTable(o.Log, o.Steps),
		locks:  ops.NewLocks(),
		events: event.NewBus(),
		work:   newWork(o.Trace),
		log:    o.Log,
	}
	if o.NRI != nil {
		if s.plugins, err = nri.Open(*o.NRI, view{s}); err != nil {
			return nil, err
		}
	}
	s.work.start(func(ctx context.Context) { s.opts.Stats.Run(ctx, s.sampled) })
	return s, nil
}

// SetStreams gives the server what Exec, Attach and PortForward answer from. It must be
// called before Register.
func (s *Server) SetStreams(st Streams) { s.streams = st }

// Register puts the CRI's services on g, and that for the operator's tool.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	v1.RegisterRuntimeServiceServer(g, s)
	v1.RegisterImageServiceServer(g, s)
	operator.Register(g, s)
}

// EndEvents ends all event streams: they have no end of their own that a server could
// wait for.
func (s *Server) EndEvents() { s.events.Close() }

// Close ends event streams and waits for operations and waiters; pods go on. ctx bounds
// the wait for operations that are under way.
func (s *Server) Close(ctx context.Context) error {
	s.EndEvents()
	err := s.ops.Drain(ctx)
	s.work.stop()
	s.plugins.Stop()
	return err
}
