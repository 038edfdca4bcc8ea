package config

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
)

var handlerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// checker collects problems.
type checker struct{ list []Problem }

func (k *checker) bad(key, format string, args ...any) {
	k.list = append(k.list, Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

func (k *checker) absolute(key, path string) {
	if !filepath.IsAbs(path) {
		k.bad(key, "%q must be an absolute path", path)
	}
}

// socket also minds the room in a sockaddr_un (unix(7)).
func (k *checker) socket(key, path string) {
	k.absolute(key, path)
	if len(path) > 107 {
		k.bad(key, "the path has %d bytes; the kernel allows 107", len(path))
	}
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.bad(key, "%q is not known; allowed: %s", value, strings.Join(allowed, ", "))
	}
}

func (k *checker) within(key string, value, low, high int) {
	if value < low || value > high {
		k.bad(key, "%d is out of range: %d to %d", value, low, high)
	}
}

func (k *checker) duration(key string, value Duration, low, high time.Duration) {
	if v := value.Duration; v < low || v > high {
		k.bad(key, "%s is out of range: %s to %s", v, low, high)
	}
}

// Validate lists every mistake in the values, without lines.
func (c *Config) Validate() []Problem {
	k := &checker{}
	k.absolute("root", c.Root)
	k.absolute("state", c.State)
	if inside(c.Root, c.State) || inside(c.State, c.Root) {
		k.bad("state", "the state directory %s and the root directory %s must not contain each other", c.State, c.Root)
	}
	k.socket("socket", c.Socket)
	k.oneOf("log_level", c.LogLevel, "debug", "info", "warn", "error")
	k.oneOf("cgroup.driver", c.Cgroup.Driver, DriverAuto, DriverCgroupfs, DriverSystemd)
	c.checkRuntimes(k)
	k.within("containers.max_log_line", c.Containers.MaxLogLine, 256, 1<<20)
	k.within("containers.writable_limit", c.Containers.WritableLimit, 0, 1<<30)
	k.within("containers.writable_projects", c.Containers.WritableProjects, 1, 1<<31-ProjectCount)
	c.checkImages(k)
	c.VM.check(k)
	c.checkNetwork(k)
	c.checkAddresses(k)
	for _, dir := range c.CDI.SpecDirs {
		k.absolute("cdi.spec_dirs", dir)
	}
	c.NRI.check(k)
	c.Checkpoint.check(k)
	k.duration("stream.idle_timeout", c.Stream.IdleTimeout, time.Second, 24*time.Hour)
	k.duration("stream.creation_timeout", c.Stream.CreationTimeout, time.Second, 10*time.Minute)
	k.duration("stats.max_age", c.Stats.MaxAge, 100*time.Millisecond, time.Minute)
	k.duration("stats.disk_interval", c.Stats.DiskInterval, time.Second, time.Hour)
	return k.list
}

// inside says whether b lies in a, or is it.
func inside(a, b string) bool {
	rel, err := filepath.Rel(filepath.Clean(a), filepath.Clean(b))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func (c *Config) checkRuntimes(k *checker) {
	names := make([]string, 0, len(c.Runtimes))
	for name := range c.Runtimes {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		r, key := c.Runtimes[name], "runtimes."+name
		if !handlerName.MatchString(name) || len(name) > 63 {
			k.bad(key, "%q cannot name a handler: lower-case letters, digits and dashes, at most 63", name)
		}
		switch r.Type {
		case "", TypeOCI:
		case TypeVM:
			if r.Path != "" {
				k.bad(key+".path", "a handler of type %q has no program of its own: set vm.qemu", TypeVM)
			}
			if r.Root != "" {
				k.bad(key+".root", "a handler of type %q keeps its state with the daemon's", TypeVM)
			}
			continue
		default:
			k.oneOf(key+".type", r.Type, TypeOCI, TypeVM)
		}
		if strings.ContainsRune(r.Path, '/') {
			k.absolute(key+".path", r.Path)
		}
		if r.Root != "" {
			k.absolute(key+".root", r.Root)
		}
	}
	if c.DefaultRuntime != "" && !slices.Contains(names, c.DefaultRuntime) {
		k.bad("default_runtime", "there is no handler %q; allowed: %s, or empty to choose", c.DefaultRuntime, strings.Join(names, ", "))
	}
}

func (c *Config) checkImages(k *checker) {
	k.absolute("images.hosts_dir", c.Images.HostsDir)
	if c.Images.AuthFile != "" {
		k.absolute("images.auth_file", c.Images.AuthFile)
	}
	k.within("images.max_concurrent_downloads", c.Images.MaxConcurrentDownloads, 1, 32)
	k.within("images.max_registry_downloads", c.Images.MaxRegistryDownloads, 1, 256)
	k.within("images.max_total_downloads", c.Images.MaxTotalDownloads, 1, 256)
	if d := c.Images.ProgressDeadline.Duration; d != 0 {
		k.duration("images.progress_deadline", c.Images.ProgressDeadline, time.Second, time.Hour)
	}
	for key, path := range map[string]string{
		"images.signature_policy": c.Images.SignaturePolicy, "images.signature_policy_dir": c.Images.SignaturePolicyDir,
	} {
		if path != "" {
			k.absolute(key, path)
		}
	}
	k.within("images.max_layer_size", c.Images.MaxLayerSize, 1, 16<<20)
	for _, p := range c.Images.Pinned {
		if strings.TrimSpace(p) != p || p == "" {
			k.bad("images.pinned", "%q cannot match a reference", p)
		}
		if strings.Contains(strings.TrimSuffix(strings.TrimPrefix(p, "*"), "*"), "*") {
			k.bad("images.pinned", "%q has a star inside; allowed at the begin and at the end", p)
		}
	}
	for _, ref := range c.Images.Prefetch {
		if _, err := reference.ParseDockerRef(ref); err != nil {
			k.bad("images.prefetch", "%q is no reference of an image: %s", ref, err)
		}
	}
}

func (c *Config) checkNetwork(k *checker) {
	k.absolute("network.conf_dir", c.Network.ConfDir)
	if len(c.Network.BinDirs) == 0 {
		k.bad("network.bin_dirs", "at least one directory is needed")
	}
	for _, dir := range c.Network.BinDirs {
		k.absolute("network.bin_dirs", dir)
	}
}

func (c *Config) checkAddresses(k *checker) {
	if host, ok := k.address("stream.address", c.Stream.Address); ok && host != "localhost" {
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			k.bad("stream.address", "%q is not a loopback address; allowed: 127.0.0.1, [::1] or localhost, and a port", c.Stream.Address)
		}
	}
	if c.Metrics.Address != "" {
		k.address("metrics.address", c.Metrics.Address)
	}
	if c.Tracing.Endpoint != "" {
		if host, ok := k.address("tracing.endpoint", c.Tracing.Endpoint); ok && host == "" {
			k.bad("tracing.endpoint", "%q has no host", c.Tracing.Endpoint)
		}
	}
	k.within("tracing.sampling_rate_per_million", c.Tracing.PerMillion, 0, 1e6)
}

func (c *NRI) check(k *checker) {
	k.socket("nri.socket", c.Socket)
	k.absolute("nri.plugin_dir", c.PluginDir)
	k.absolute("nri.plugin_config_dir", c.PluginConfigDir)
	k.duration("nri.registration_timeout", c.RegistrationTimeout, 100*time.Millisecond, time.Minute)
	k.duration("nri.request_timeout", c.RequestTimeout, 100*time.Millisecond, time.Minute)
}

// check: the OCI runtimes look for a program of this name.
func (c *Checkpoint) check(k *checker) {
	if c.CRIU == "" {
		return
	}
	k.absolute("checkpoint.criu", c.CRIU)
	if filepath.Base(c.CRIU) != "criu" {
		k.bad("checkpoint.criu", "%q is not called criu, which is the name that OCI runtimes look for", c.CRIU)
	}
}

func (k *checker) address(key, address string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		k.bad(key, "%q is not HOST:PORT", address)
		return "", false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		k.bad(key, "%q is not a port: 0 to 65535", port)
		return "", false
	}
	return host, true
}
