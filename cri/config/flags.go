package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Flags are the daemon's flags. Those that were given override the file.
type Flags struct {
	file    string
	changes []change
}

// change is one flag that was given.
type change struct {
	flag, key string
	set       func(*Config) error
}

// Bind defines the daemon's flags on fs; after fs.Parse, Config answers the outcome.
func Bind(fs *flag.FlagSet) *Flags {
	f := &Flags{}
	fs.StringVar(&f.file, "config", "", "configuration `file` (default "+DefaultPath+" if it exists)")
	d := Default()
	f.text(fs, "socket", "socket", "`path` of the CRI socket", d.Socket, func(c *Config) *string { return &c.Socket })
	f.text(fs, "root", "root", "`directory` of what survives a reboot", d.Root, func(c *Config) *string { return &c.Root })
	f.text(fs, "state", "state", "`directory` of running state", d.State, func(c *Config) *string { return &c.State })
	f.text(fs, "hosts-dir", "images.hosts_dir", "`directory` of registries' hosts.toml files", d.Images.HostsDir, func(c *Config) *string { return &c.Images.HostsDir })
	f.text(fs, "cni-conf-dir", "network.conf_dir", "`directory` of the network configuration", d.Network.ConfDir, func(c *Config) *string { return &c.Network.ConfDir })
	f.text(fs, "stream-address", "stream.address", "loopback `host:port` of exec, attach and port-forward", d.Stream.Address, func(c *Config) *string { return &c.Stream.Address })
	f.text(fs, "metrics-address", "metrics.address", "`host:port` of Prometheus metrics (default off)", d.Metrics.Address, func(c *Config) *string { return &c.Metrics.Address })
	f.text(fs, "log-level", "log_level", "debug, info, warn or error", d.LogLevel, func(c *Config) *string { return &c.LogLevel })
	f.text(fs, "default-runtime", "default_runtime", "`handler` of pods that name none", d.DefaultRuntime, func(c *Config) *string { return &c.DefaultRuntime })
	f.text(fs, "cgroup-driver", "cgroup.driver", "auto, cgroupfs or systemd", d.Cgroup.Driver, func(c *Config) *string { return &c.Cgroup.Driver })
	f.add(fs, "cni-bin-dir", "network.bin_dirs", "`directories` of network plugins, separated by colons"+shown(strings.Join(d.Network.BinDirs, ":")),
		func(c *Config, v string) error { c.Network.BinDirs = filepath.SplitList(v); return nil })
	f.add(fs, "stream-idle-timeout", "stream.idle_timeout", "`time` after which an idle session is closed"+shown(d.Stream.IdleTimeout.String()),
		func(c *Config, v string) error {
			t, err := time.ParseDuration(v)
			c.Stream.IdleTimeout = Duration{t}
			return err
		})
	return f
}

func shown(value string) string {
	if value == "" {
		return ""
	}
	return " (default " + value + ")"
}

func (f *Flags) text(fs *flag.FlagSet, name, key, usage, def string, field func(*Config) *string) {
	f.add(fs, name, key, usage+shown(def), func(c *Config, v string) error { *field(c) = v; return nil })
}

func (f *Flags) add(fs *flag.FlagSet, name, key, usage string, set func(*Config, string) error) {
	fs.Func(name, usage, func(value string) error {
		if err := set(&Config{}, value); err != nil {
			return err
		}
		f.changes = append(f.changes, change{name, key, func(c *Config) error { return set(c, value) }})
		return nil
	})
}

// Config reads the file, if there is one, lays the flags over it and validates the
// outcome. Problems name the flag where one is to blame (errdefs.ErrInvalidArgument).
func (f *Flags) Config() (Config, error) {
	c, err := f.load()
	if err != nil {
		return Config{}, err
	}
	byKey := make(map[string]string)
	for _, ch := range f.changes {
		if err := ch.set(&c); err != nil {
			return Config{}, fmt.Errorf("--%s: %w: %w", ch.flag, errdefs.ErrInvalidArgument, err)
		}
		byKey[ch.key] = ch.flag
	}
	var errs []error
	for _, p := range c.Validate() {
		where := p.Key
		if name, ok := byKey[p.Key]; ok {
			where = "--" + name
		}
		errs = append(errs, fmt.Errorf("%s: %w: %s", where, errdefs.ErrInvalidArgument, p.Text))
	}
	return c, errors.Join(errs...)
}

func (f *Flags) load() (Config, error) {
	if f.file != "" {
		return Load(f.file)
	}
	c, err := Load(DefaultPath)
	if errors.Is(err, os.ErrNotExist) {
		return Default(), nil
	}
	return c, err
}
