package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"time"

	"github.com/cricket-cri/cricket/cri"
	"github.com/cricket-cri/cricket/cri/cdi"
	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/cri/nri"
	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/cri/store"
	"github.com/cricket-cri/cricket/cri/stream"
	"github.com/cricket-cri/cricket/runtime/checkpoint"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/layer"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/sandbox/cni"
)

// drainTime is how long operations may take to end after SIGTERM; those that do not are
// picked up by the next daemon.
const drainTime = 20 * time.Second

// run is the daemon from its start to its end.
func run(ctx context.Context, c config.Config, log *slog.Logger) error {
	growDescriptors()
	rootLock, err := lock(c.Root)
	if err != nil {
		return err
	}
	defer rootLock.Close()
	if err := ensureTmpfs(c.State, monitorSocket(c.State), log); err != nil {
		return err
	}
	stateLock, err := lock(c.State)
	if err != nil {
		return err
	}
	defer stateLock.Close()
	background, cancel := context.WithCancel(context.Background())
	defer cancel()
	keep, err := newKeeper(background, c.State, c.LogLevel, log)
	if err != nil {
		return err
	}
	defer keep.close()
	defer cancel()
	traces, err := startTracing(ctx, c.Tracing, log)
	if err != nil {
		return err
	}
	d, err := assemble(ctx, c, keep, traces, log)
	if err != nil {
		return errors.Join(err, traces.close())
	}
	d.server.Recover(ctx)
	d.machines.start(ctx) // no sooner: a template takes the processors that the pods' adoption needs
	if err := d.server.StartPlugins(); err != nil {
		return errors.Join(fmt.Errorf("%w; see [nri] in the configuration", err), d.close(), traces.close())
	}
	d.server.Prefetch(c.Images.Prefetch)
	err = d.serve(ctx, c)
	return errors.Join(err, d.close(), traces.close())
}

// daemon is what serves.
type daemon struct {
	server  *cri.Server
	streams *stream.Server
	store   *store.Store
	metrics *cri.Metrics
	// machines is nil if there is no handler of virtual machines.
	machines *machines
	traces   *tracing
	log      *slog.Logger
}

// assemble makes every part and connects it to the others.
func assemble(ctx context.Context, c config.Config, keep *keeper, traces *tracing, log *slog.Logger) (*daemon, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	layers, err := layer.Open(layer.Options{
		Root: filepath.Join(c.Root, "layers"), State: filepath.Join(c.State, "layers"), Log: log,
		ForceLoop: c.Images.LoopDevices, FSVerity: c.Images.FSVerity,
	})
	if err != nil {
		return nil, fmt.Errorf("open layers: %w; see that --root is on a local disk that can be written", err)
	}
	images, err := openImages(c, layers, log)
	if err != nil {
		return nil, err
	}
	network, err := openNetwork(c, log)
	if err != nil {
		return nil, err
	}
	systemd := systemdCgroups(c.Cgroup.Driver)
	drivers, def, err := makeDrivers(ctx, c, systemd, keep, layers, network, log)
	if err != nil {
		return nil, err
	}
	machines, err := addVirtual(c, drivers, virtualParts{
		systemd: systemd, keep: keep, layers: layers, network: network, traces: traces, log: log,
	})
	if err != nil {
		return nil, err
	}
	if _, ok := drivers[def]; !ok {
		return nil, errors.Join(fmt.Errorf("default_runtime: %q cannot run pods on this machine; `cricket check` says why", def), machines.close())
	}
	records, err := store.Open(store.Options{
		Dir: filepath.Join(c.State, "records"), Journal: filepath.Join(c.Root, "journal"), Boot: boot, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("open records: %w; see that --root and --state can be written", err)
	}
	devices, err := openCDI(c.CDI)
	if err != nil {
		return nil, errors.Join(err, machines.close())
	}
	d, err := connect(c, cri.Options{
		Drivers: drivers, DefaultHandler: def, Images: images, Layers: layers, Network: network, Store: records, CDI: devices, NRI: nriOptions(c.NRI, log),
		Stats:    stat.New(stat.Options{MaxAge: c.Stats.MaxAge.Duration, DiskInterval: c.Stats.DiskInterval.Duration}),
		ImageDir: filepath.Join(c.Root, "layers"), Version: version, Boot: boot, SystemdCgroup: systemd, CheckpointDir: filepath.Join(c.Root, "checkpoints"),
		Info: func() map[string]string { return machines.info(pulls(images, info(c))) }, Conditions: machines.conditions, Trace: traces.flows(), Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, machines.close())
	}
	d.machines, d.traces = machines, traces
	keep.measure(d.metrics)
	machines.measure(d.metrics)
	d.metrics.Add(cri.PullMetrics(images.Status))
	traces.measure(d.metrics)
	return d, nil
}

func openImages(c config.Config, layers *layer.Store, log *slog.Logger) (*image.Store, error) {
	o := c.ImageOptions()
	o.Layers, o.Log, o.UserAgent = layers, log, "cricket/"+version
	images, err := image.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	return images, nil
}

func openNetwork(c config.Config, log *slog.Logger) (*cni.Network, error) {
	network, err := cni.Open(cni.Options{
		ConfDir: c.Network.ConfDir, BinDirs: c.Network.BinDirs, Root: filepath.Join(c.Root, "cni"), Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	if dropped, err := network.DropTornLeases(); dropped > 0 || err != nil {
		log.Warn("leases that a power failure had emptied are dropped", "dropped", dropped, "error", err)
	}
	return network, nil
}

// openCDI is nil if CDI is switched off.
func openCDI(c config.CDI) (*cdi.Registry, error) {
	if !c.Enabled {
		return nil, nil
	}
	return cdi.Open(c.SpecDirs)
}

// nriOptions is nil if NRI is switched off. It has the module log to log from now on.
func nriOptions(c config.NRI, log *slog.Logger) *nri.Options {
	if !c.Enabled {
		return nil
	}
	nri.LogTo(log)
	o := &nri.Options{
		Version: version, Socket: c.Socket, PluginDir: c.PluginDir, ConfigDir: c.PluginConfigDir,
		RegistrationTimeout: c.RegistrationTimeout.Duration, RequestTimeout: c.RequestTimeout.Duration, Log: log,
	}
	if c.DisableConnections {
		o.Socket = ""
	}
	return o
}

func makeDrivers(ctx context.Context, c config.Config, systemd bool, keep *keeper, layers *layer.Store, network *cni.Network, log *slog.Logger) (map[string]sandbox.Driver, string, error) {
	runtimes, def, err := findRuntimes(ctx, c, systemd, log)
	if err != nil {
		return nil, "", err
	}
	quota, err := openQuota(c)
	if err != nil {
		return nil, "", err
	}
	drivers := map[string]sandbox.Driver{}
	criu := &checkpoint.CRIU{Path: c.Checkpoint.CRIU}
	for name, r := range maps.All(runtimes) {
		drivers[name], err = sandbox.NewDriver(sandbox.Options{
			Root: c.Root, State: c.State, Monitor: supervisor{keep.client, keep}, Layers: layers, Network: network,
			Runtime: r, SystemdCgroup: systemd, MaxLogLine: c.Containers.MaxLogLine, Quota: quota, CRIU: criu, Log: log,
		})
		if err != nil {
			return nil, "", fmt.Errorf("make driver of runtime handler %s: %w", name, err)
		}
	}
	return drivers, def, nil
}

// connect makes the services and the streaming server, which need each other.
func connect(c config.Config, o cri.Options) (*daemon, error) {
	metrics := cri.NewMetrics(version)
	o.Steps = metrics.ObserveStep
	server, err := cri.New(o)
	if err != nil {
		return nil, err
	}
	streams, err := stream.New(stream.Options{
		Address: c.Stream.Address, IdleTimeout: c.Stream.IdleTimeout.Duration,
		CreationTimeout: c.Stream.CreationTimeout.Duration, Log: o.Log,
	}, server.StreamTargets())
	if err != nil {
		return nil, fmt.Errorf("%w; choose another --stream-address", err)
	}
	stream.RouteLog(o.Log)
	server.SetStreams(streams)
	metrics.Watch(server)
	return &daemon{server: server, streams: streams, store: o.Store, metrics: metrics, log: o.Log}, nil
}

// info is what a verbose Status shows of the daemon.
func info(c config.Config) map[string]string {
	text, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	return map[string]string{"config": string(text)}
}

// pulls adds what a verbose Status shows of pulls under way.
func pulls(images *image.Store, all map[string]string) map[string]string {
	if text, err := json.Marshal(images.Status().Pulls); err == nil && all != nil {
		all["pulls"] = string(text)
	}
	return all
}

func (d *daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return errors.Join(d.streams.Close(ctx), d.server.Close(ctx), d.store.Close(), d.machines.close())
}
