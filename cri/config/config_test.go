package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
)

func TestDefaultFileIsTheDefault(t *testing.T) {
	c, problems := Parse(DefaultFile())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("the printed default differs:\n%+v\n%+v", c, Default())
	}
	if p := c.Validate(); len(p) > 0 {
		t.Errorf("the default is invalid: %v", p)
	}
}

// Every key must stand in the file, or its default would be an undocumented zero.
func TestDefaultFileNamesEveryKey(t *testing.T) {
	var tree map[string]any
	if err := toml.Unmarshal(DefaultFile(), &tree); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, typ reflect.Type, in map[string]any)
	walk = func(prefix string, typ reflect.Type, in map[string]any) {
		for i := range typ.NumField() {
			name := typ.Field(i).Tag.Get("toml")
			v, ok := in[name]
			if !ok {
				t.Errorf("%s%s is not in default.toml", prefix, name)
				continue
			}
			switch ft := typ.Field(i).Type; {
			case ft == reflect.TypeFor[Duration]():
			case ft.Kind() == reflect.Struct:
				walk(prefix+name+".", ft, v.(map[string]any))
			case ft.Kind() == reflect.Map:
				for key, e := range v.(map[string]any) {
					walk(prefix+name+"."+key+".", ft.Elem(), e.(map[string]any))
				}
			}
		}
	}
	walk("", reflect.TypeFor[Config](), tree)
}

func TestParseLaysOverDefaults(t *testing.T) {
	c, problems := Parse([]byte(`
default_runtime = "other"
[runtimes.other]
path = "/opt/other"
[runtimes.crun]
path = "/opt/crun"
[network]
bin_dirs = ["/a"]
[stream]
idle_timeout = "5m"
`))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := Default()
	want.DefaultRuntime = "other"
	want.Runtimes["other"] = Runtime{Path: "/opt/other"}
	want.Runtimes["crun"] = Runtime{Type: TypeOCI, Path: "/opt/crun"}
	want.Network.BinDirs = []string{"/a"}
	want.Stream.IdleTimeout = Duration{5 * time.Minute}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestProblems(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want []string // each a part of the problem at its place
	}{
		"syntax":        {"root = \n", []string{"line 1: "}},
		"syntax later":  {"root = '/a'\n\n[images\n", []string{"line 3: "}},
		"duplicate":     {"root = '/a'\nroot = '/b'\n", []string{"line 2: "}},
		"unknown key":   {"\nrot = '/a'\n", []string{"line 2: rot: unknown key; allowed here: cdi, cgroup, "}},
		"unknown deep":  {"[images]\n\npined = []\n", []string{"line 3: images.pined: unknown key; allowed in [images]: auth_file, fs_verity,"}},
		"unknown table": {"[imges]\npinned = []\n", []string{"line 1: imges: unknown key"}},
		"runtime key":   {"[runtimes.kata]\ntype = 'oci'\nshim = 'x'\n", []string{"line 3: runtimes.kata.shim: unknown key; allowed in [kata]: path, root, type"}},
		"wrong type":    {"[images]\nmax_concurrent_downloads = 'three'\n", []string{"line 2: images.max_concurrent_downloads: a TOML string cannot stand here: write a whole number"}},
		"duration":      {"[stream]\nidle_timeout = '4'\n", []string{"line 2: stream.idle_timeout: \"4\" is not a duration"}},
		"duration type": {"[stream]\nidle_timeout = 4\n", []string{"line 2: stream.idle_timeout: write a duration in quotes"}},
		"vm path":       {"[runtimes.vm]\npath = '/x'\n", []string{"line 2: runtimes.vm.path: a handler of type \"vm\" has no program of its own"}},
		"vm kernel":     {"[vm]\nkernel = '/vmlinux'\n", []string{"line 1: vm.initrd: a kernel of your own needs an initrd"}},
		"vm initrd":     {"[vm]\ninitrd = '/initrd'\n", []string{"line 2: vm.initrd: an initrd belongs to a kernel"}},
		"vm memory":     {"[vm]\nmemory = 64\nmax_memory = 32\n", []string{"line 2: vm.memory: 64 is out of range: 256 to", "line 3: vm.max_memory: 32 is out of range: 64 to"}},
		"vm words": {"[vm]\naccelerator = 'hvf'\nisolation = 'none'\nmachine = 'pc'\ncpu = 'a b'\n", []string{
			"line 2: vm.accelerator: \"hvf\" is not known; allowed: auto, kvm, tcg", "line 3: vm.isolation: ", "line 4: vm.machine: ", "line 5: vm.cpu: ",
		}},
		"vm rootfs":   {"[vm]\nrootfs = '9p'\n", []string{"line 2: vm.rootfs: \"9p\" is not known; allowed: auto, disk, dax"}},
		"vm strict":   {"[vm]\nisolation = 'strict'\nrootfs = 'dax'\n", []string{"line 3: vm.rootfs: \"dax\" shares the page cache"}},
		"type":        {"[runtimes.x]\ntype = 'wasm'\n", []string{"line 2: runtimes.x.type: \"wasm\" is not known; allowed: oci, vm"}},
		"handler":     {"[runtimes.X_]\n", []string{"line 1: runtimes.X_: "}},
		"default":     {"default_runtime = 'youki'\n", []string{"line 1: default_runtime: there is no handler \"youki\"; allowed: crun, runc, vm"}},
		"driver":      {"[cgroup]\ndriver = 'cgroups'\n", []string{"line 2: cgroup.driver: \"cgroups\" is not known; allowed: auto, cgroupfs, systemd"}},
		"relative":    {"root = 'var'\n", []string{"line 1: root: \"var\" must be an absolute path"}},
		"nested":      {"root = '/run/cricket/lib'\n", []string{"state: the state directory"}},
		"open stream": {"[stream]\naddress = '0.0.0.0:0'\n", []string{"line 2: stream.address: \"0.0.0.0:0\" is not a loopback"}},
		"bad port":    {"[metrics]\naddress = 'localhost:http'\n", []string{"line 2: metrics.address: \"http\" is not a port"}},
		"tracing":     {"[tracing]\nendpoint = 'http://localhost'\nsampling_rate_per_million = -1\n", []string{"line 2: tracing.endpoint: ", "line 3: tracing.sampling_rate_per_million: -1 is out of range: 0 to 1000000"}},
		"range":       {"[containers]\nmax_log_line = 10\n", []string{"line 2: containers.max_log_line: 10 is out of range: 256 to 1048576"}},
		"downloads": {"[images]\nmax_registry_downloads = 0\nmax_total_downloads = 1000\nauth_file = 'config.json'\n", []string{
			"line 2: images.max_registry_downloads: 0 is out of range: 1 to 256", "line 3: images.max_total_downloads: ", "line 4: images.auth_file: \"config.json\" must be an absolute path",
		}},
		"prefetch":   {"[images]\nprefetch = ['a', 'A B']\n", []string{"line 2: images.prefetch: \"A B\" is no reference"}},
		"pinned":     {"[images]\npinned = ['a*b']\n", []string{"line 2: images.pinned: \"a*b\" has a star inside"}},
		"no plugins": {"[network]\nbin_dirs = []\n", []string{"line 2: network.bin_dirs: at least one"}},
		"all at once": {"log_level = 'loud'\nroot = 5\n[images]\nfoo = 1\nmax_concurrent_downloads = 'x'\nprogress_deadline = '1'\n[stats]\nmax_age = '1h'\n", []string{
			"line 1: log_level: ", "line 2: root: ", "line 4: images.foo: ", "line 5: images.max_", "line 6: images.progress_", "line 8: stats.max_age: 1h0m0s is out of range",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := Parse([]byte(test.in))
			if len(problems) != len(test.want) {
				t.Fatalf("problems = %v, want %d", problems, len(test.want))
			}
			for i, p := range problems {
				if !strings.HasPrefix(p.String(), test.want[i]) {
					t.Errorf("problem %q, want %q", p, test.want[i])
				}
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte("root = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.HasPrefix(err.Error(), path+": line 1: root: ") {
		t.Errorf("err = %v", err)
	}
	if _, err := Load(path + "x"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("missing file: %v", err)
	}
}

func TestFlagsOverrideTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte("root = '/a'\nlog_level = 'warn'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	parse := func(args ...string) (Config, error) {
		fs := flag.NewFlagSet("x", flag.ContinueOnError)
		f := Bind(fs)
		if err := fs.Parse(append([]string{"--config", path}, args...)); err != nil {
			return Config{}, err
		}
		return f.Config()
	}
	c, err := parse("--root", "/b", "--cni-bin-dir", "/x:/y", "--stream-idle-timeout", "3s")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Root, want.LogLevel = "/b", "warn"
	want.Network.BinDirs = []string{"/x", "/y"}
	want.Stream.IdleTimeout = Duration{3 * time.Second}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	_, err = parse("--log-level", "loud")
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.HasPrefix(err.Error(), "--log-level: ") {
		t.Errorf("err = %v", err)
	}
}

func TestDocumentationShowsTheDefaultFile(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "```toml\n"+string(DefaultFile())+"```\n") {
		t.Error("docs/configuration.md does not show default.toml as it is")
	}
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	Bind(fs)
	fs.VisitAll(func(f *flag.Flag) {
		if !strings.Contains(string(text), "`--"+f.Name+" ") {
			t.Errorf("docs/configuration.md does not show --%s", f.Name)
		}
	})
}
