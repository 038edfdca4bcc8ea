package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
)

// Options say where plugins are found.
type Options struct {
	// Version of the runtime, as plugins are told.
	Version string
	// Socket is where plugins connect; empty for nowhere.
	Socket string
	// PluginDir holds plugins that are started with the runtime, ConfigDir their
	// configurations.
	PluginDir, ConfigDir string
	// RegistrationTimeout and RequestTimeout bound what a plugin may take. They hold for
	// the process as a whole: the adaptation keeps them so.
	RegistrationTimeout, RequestTimeout time.Duration
	Log                                 *slog.Logger
}

// Runtime is what plugins see, and what they change without being asked. Its methods are
// called from several goroutines.
type Runtime interface {
	// Snapshot lists the pods and containers that there are.
	Snapshot() ([]*api.PodSandbox, []*api.Container)
	// Update changes limits of a container. One that is gone is errdefs.ErrNotFound.
	Update(ctx context.Context, id string, limits *api.LinuxResources) error
	// Evict kills a container.
	Evict(ctx context.Context, id, reason string) error
}

// Plugins are those that are connected. A nil *Plugins is an NRI that is switched off.
// All methods are safe for concurrent use.
type Plugins struct {
	adaptation *adaptation.Adaptation
	runtime    Runtime
	log        *slog.Logger
}

// Open prepares for plugins of r; Start lets them come. A socket that somebody else
// serves is left alone: then only plugins of PluginDir are there.
func Open(o Options, r Runtime) (*Plugins, error) {
	adaptation.SetPluginRegistrationTimeout(o.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(o.RequestTimeout)
	p := &Plugins{runtime: r, log: o.Log}
	options := []adaptation.Option{adaptation.WithPluginPath(o.PluginDir), adaptation.WithPluginConfigPath(o.ConfigDir)}
	switch {
	case o.Socket == "":
		options = append(options, adaptation.WithDisabledExternalConnections())
	case answers(o.Socket):
		o.Log.Warn("NRI plugins cannot connect: somebody else serves the socket; choose another, or switch connections off", "nri.socket", o.Socket)
		options = append(options, adaptation.WithDisabledExternalConnections())
	default:
		options = append(options, adaptation.WithSocketPath(o.Socket))
	}
	a, err := adaptation.New("cricket", o.Version, p.synchronize, p.updateUnasked, options...)
	if err != nil {
		return nil, fmt.Errorf("prepare NRI: %w", err)
	}
	p.adaptation = a
	return p, nil
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Start starts the plugins of the directory, tells them what there is, and lets others
// connect. One that does not work is logged and left out; a name in the directory that is
// no plugin's, or a socket that cannot be made, is an error.
func (p *Plugins) Start() error {
	if p == nil {
		return nil
	}
	if err := p.adaptation.Start(); err != nil {
		return fmt.Errorf("start NRI: %w", err)
	}
	return nil
}

// Stop ends the plugins that Start started and takes no more.
func (p *Plugins) Stop() {
	if p != nil {
		p.adaptation.Stop()
	}
}

// Hold keeps plugins that connect from being told what there is, while that changes, so
// that none sees a container twice or never, and while plugins are told of what has changed,
// so that none misses it. Who holds must not hold again: it would wait for a plugin that
// waits for it.
func (p *Plugins) Hold() (release func()) {
	if p == nil {
		return func() {}
	}
	return p.adaptation.BlockPluginSync().Unblock
}

// synchronize tells a plugin that has connected what there is.
func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	pods, containers := p.runtime.Snapshot()
	updates, err := tell(ctx, pods, containers)
	if err != nil {
		return err
	}
	p.change(ctx, updates)
	return nil
}

// updateUnasked does what a plugin asks for by itself, and answers what failed.
func (p *Plugins) updateUnasked(ctx context.Context, updates []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	if failed := p.change(ctx, updates); len(failed) > 0 {
		return failed, errors.New("update containers: see the runtime's log")
	}
	return nil, nil
}

// change applies updates one by one and returns those that failed and must not. A
// container that is gone needs none.
func (p *Plugins) change(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate) {
	for _, u := range updates {
		err := p.runtime.Update(ctx, u.GetContainerId(), u.GetLinux().GetResources())
		if err == nil || errdefs.IsNotFound(err) {
			continue
		}
		p.log.Warn("NRI update of container failed", "container", u.GetContainerId(), "error", err)
		if !u.GetIgnoreFailure() {
			failed = append(failed, u)
		}
	}
	return failed
}

func (p *Plugins) evict(ctx context.Context, evictions []*api.ContainerEviction) {
	for _, e := range evictions {
		err := p.runtime.Evict(ctx, e.GetContainerId(), e.GetReason())
		if err != nil && !errdefs.IsNotFound(err) {
			p.log.Warn("NRI eviction of container failed", "container", e.GetContainerId(), "error", err)
		}
	}
}

// LogTo is where the module logs to. It is the process's as a whole, and not to be called
// once there are plugins.
func LogTo(log *slog.Logger) { nrilog.Set(logger{log}) }

// logger is the module's logger. What it tells at info is one line a connection and more.
type logger struct{ to *slog.Logger }

func (l logger) log(ctx context.Context, level slog.Level, format string, args []any) {
	if l.to.Enabled(ctx, level) {
		l.to.Log(ctx, level, "NRI: "+fmt.Sprintf(format, args...))
	}
}

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.log(ctx, slog.LevelDebug, format, args)
}

func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.log(ctx, slog.LevelDebug, format, args)
}

func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.log(ctx, slog.LevelWarn, format, args)
}

func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.log(ctx, slog.LevelError, format, args)
}
