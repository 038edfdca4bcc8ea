// Package config is the daemon's configuration: a TOML file, its defaults, and the
// flags that override it.
//
// The defaults have one source, the commented file default.toml in this package:
// Default reads it, `cricket config default` prints it, and a user's file is laid over
// it. Load reports every mistake in a file at once, each with its line.
package config

import (
	_ "embed"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultPath is the file that the daemon reads if it exists and no other is named.
const DefaultPath = "/etc/cricket/config.toml"

//go:embed default.toml
var defaultFile []byte

// Config is the whole configuration. default.toml documents every field.
type Config struct {
	Socket         string             `toml:"socket"`
	Root           string             `toml:"root"`
	State          string             `toml:"state"`
	LogLevel       string             `toml:"log_level"`
	DefaultRuntime string             `toml:"default_runtime"`
	Runtimes       map[string]Runtime `toml:"runtimes"`
	Cgroup         Cgroup             `toml:"cgroup"`
	Containers     Containers         `toml:"containers"`
	Images         Images             `toml:"images"`
	VM             VM                 `toml:"vm"`
	Network        Network            `toml:"network"`
	CDI            CDI                `toml:"cdi"`
	NRI            NRI                `toml:"nri"`
	Checkpoint     Checkpoint         `toml:"checkpoint"`
	Stream         Stream             `toml:"stream"`
	Metrics        Metrics            `toml:"metrics"`
	Tracing        Tracing            `toml:"tracing"`
	Stats          Stats              `toml:"stats"`
}

// Runtime is one runtime handler.
type Runtime struct {
	// Type is TypeOCI or TypeVM. Empty means TypeOCI.
	Type string `toml:"type"`
	// Path is a program: absolute, or a name for exec.LookPath. Empty: the handler's
	// name. Path and Root are for TypeOCI alone.
	Path string `toml:"path"`
	// Root is the OCI runtime's --root; empty leaves the choice to the daemon.
	Root string `toml:"root"`
}

// The types of runtime handlers.
const (
	TypeOCI = "oci"
	TypeVM  = "vm"
)

// Cgroup says who makes cgroups.
type Cgroup struct {
	Driver string `toml:"driver"` // DriverAuto, DriverCgroupfs or DriverSystemd
}

// The cgroup drivers.
const (
	DriverAuto     = "auto"
	DriverCgroupfs = "cgroupfs"
	DriverSystemd  = "systemd"
)

// Containers holds defaults for all containers.
type Containers struct {
	MaxLogLine int `toml:"max_log_line"` // bytes
	// WritableLimit is in MiB, 0 for none; WritableProjects is the first of the numbers of
	// projects that it takes.
	WritableLimit    int `toml:"writable_limit"`
	WritableProjects int `toml:"writable_projects"`
}

// ProjectCount is how many projects of a file system Cricket takes for writable layers.
const ProjectCount = 65536

// Images configures pulls and the image store.
type Images struct {
	HostsDir               string   `toml:"hosts_dir"`
	AuthFile               string   `toml:"auth_file"`
	MaxConcurrentDownloads int      `toml:"max_concurrent_downloads"`
	MaxRegistryDownloads   int      `toml:"max_registry_downloads"`
	MaxTotalDownloads      int      `toml:"max_total_downloads"`
	ProgressDeadline       Duration `toml:"progress_deadline"`
	MaxLayerSize           int      `toml:"max_layer_size"` // MiB
	Pinned                 []string `toml:"pinned"`
	Prefetch               []string `toml:"prefetch"`
	FSVerity               bool     `toml:"fs_verity"`
	LoopDevices            bool     `toml:"loop_devices"`
	SignaturePolicy        string   `toml:"signature_policy"`
	SignaturePolicyDir     string   `toml:"signature_policy_dir"`
}

// VM describes virtual machines.
type VM struct {
	QEMU        string `toml:"qemu"`
	Image       string `toml:"image"`
	Kernel      string `toml:"kernel"`
	Initrd      string `toml:"initrd"`
	Cmdline     string `toml:"cmdline"`
	Machine     string `toml:"machine"`
	Accelerator string `toml:"accelerator"` // AcceleratorAuto, …KVM or …TCG
	CPU         string `toml:"cpu"`
	VCPUs       int    `toml:"vcpus"`
	Memory      int    `toml:"memory"`     // MiB
	MaxMemory   int    `toml:"max_memory"` // MiB
	Disk        int    `toml:"disk"`       // MiB
	Pool        int    `toml:"pool"`
	Rootfs      string `toml:"rootfs"`    // RootfsAuto, …Disk or …DAX
	Isolation   string `toml:"isolation"` // IsolationShared or IsolationStrict
}

// The accelerators.
const (
	AcceleratorAuto = "auto"
	AcceleratorKVM  = "kvm"
	AcceleratorTCG  = "tcg"
)

// How virtual machines read images.
const (
	RootfsAuto = "auto"
	RootfsDisk = "disk"
	RootfsDAX  = "dax"
)

// What virtual machines share.
const (
	IsolationShared = "shared"
	IsolationStrict = "strict"
)

// Network says where CNI is found.
type Network struct {
	ConfDir string   `toml:"conf_dir"`
	BinDirs []string `toml:"bin_dirs"`
}

// CDI says where devices are described.
type CDI struct {
	Enabled  bool     `toml:"enabled"`
	SpecDirs []string `toml:"spec_dirs"`
}

// NRI says which plugins see and change containers.
type NRI struct {
	Enabled             bool     `toml:"enabled"`
	Socket              string   `toml:"socket"`
	DisableConnections  bool     `toml:"disable_connections"`
	PluginDir           string   `toml:"plugin_dir"`
	PluginConfigDir     string   `toml:"plugin_config_dir"`
	RegistrationTimeout Duration `toml:"registration_timeout"`
	RequestTimeout      Duration `toml:"request_timeout"`
}

// Checkpoint says with what checkpoints of containers are made.
type Checkpoint struct {
	CRIU string `toml:"criu"` // absolute; empty to look in PATH
}

// Stream configures the server of exec, attach and port-forward.
type Stream struct {
	Address         string   `toml:"address"`
	IdleTimeout     Duration `toml:"idle_timeout"`
	CreationTimeout Duration `toml:"creation_timeout"`
}

// Metrics configures the Prometheus endpoint.
type Metrics struct {
	Address string `toml:"address"`
}

// Tracing says where OpenTelemetry traces go.
type Tracing struct {
	Endpoint   string `toml:"endpoint"`
	Insecure   bool   `toml:"insecure"`
	PerMillion int    `toml:"sampling_rate_per_million"`
}

// Stats configures the sampler.
type Stats struct {
	MaxAge       Duration `toml:"max_age"`
	DiskInterval Duration `toml:"disk_interval"`
}

// Duration is a time.Duration that TOML files hold as a string.
type Duration struct{ time.Duration }

// UnmarshalText parses what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration: write a number with a unit, such as 500ms, 10s or 4h", text)
	}
	d.Duration = v
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(d.String()), nil
}

// DefaultFile is the commented file that holds every default.
func DefaultFile() []byte {
	return append([]byte(nil), defaultFile...)
}

// Default is the configuration without a file. It panics if the file compiled into
// this package is broken, which no user can cause.
func Default() Config {
	var c Config
	if problems := decode(defaultFile, &c); len(problems) > 0 {
		panic(fmt.Sprintf("default.toml: %v", problems))
	}
	return c
}

// Load reads the file at path over the defaults and validates it. The error is of the
// type FileError if the file could be read and is wrong (errdefs.ErrInvalidArgument).
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		if os.IsNotExist(err) {
			return Config{}, fmt.Errorf("read configuration: %w: %w", errdefs.ErrNotFound, err)
		}
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, problems := Parse(data)
	if len(problems) > 0 {
		return Config{}, FileError{File: path, List: problems}
	}
	return c, nil
}

// Parse lays data over the defaults and lists everything that is wrong with it.
func Parse(data []byte) (Config, []Problem) {
	c := Default()
	problems := decode(data, &c)
	broken := make(map[string]bool)
	for _, p := range problems {
		broken[p.Key] = true
	}
	lines := keyLines(data)
	for _, p := range c.Validate() {
		if broken[p.Key] {
			continue
		}
		p.Line = lines.find(p.Key)
		problems = append(problems, p)
	}
	sortProblems(problems)
	return c, problems
}
