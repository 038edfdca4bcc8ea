package guest

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// fileSystem is one that process 1 mounts.
type fileSystem struct {
	target, kind string
	flags        uintptr
	data         string
}

const hardened = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV

// fileSystems in the order in which they are mounted. Those for volumes and logs have
// sizes of their own, so that neither can take the memory that process 1 lives on.
func fileSystems() []fileSystem {
	return []fileSystem{
		{"/proc", "proc", hardened, ""},
		{"/sys", "sysfs", hardened, ""},
		{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/dev/mqueue", "mqueue", hardened, ""},
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=25%"},
		{"/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=25%"},
		{"/sys/fs/cgroup", "cgroup2", hardened, "nsdelegate,memory_recursiveprot"},
		{agent.DirContainers, "tmpfs", unix.MS_NODEV, "mode=0711,size=25%"},
		{agent.DirVolumes, "tmpfs", unix.MS_NODEV, "mode=0711,size=50%"},
		{agent.DirLogs, "tmpfs", hardened, "mode=0700,size=16m"},
	}
}

// directories are those of the host's doing.
func directories() []string {
	return []string{agent.DirDisks, agent.DirContainers, agent.DirVolumes, agent.DirShared, agent.DirLogs}
}

// prepare makes the machine ready, up to the point at which containers can run.
func prepare() (*slog.Logger, error) {
	unix.Umask(0)
	if err := moveRoot(); err != nil {
		return nil, err
	}
	var refused []error
	for _, fs := range fileSystems() {
		if err := os.MkdirAll(fs.target, 0o755); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", fs.target, err)
		}
		if err := unix.Mount(fs.kind, fs.target, fs.kind, fs.flags, fs.data); err != nil {
			refused = append(refused, fmt.Errorf("mount %s: %w", fs.target, err))
		}
	}
	log := openLog()
	for _, err := range refused {
		log.Error("prepare", slog.Any("error", err))
	}
	for _, dir := range directories() {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", dir, err)
		}
	}
	if err := loadAtBoot(log); err != nil {
		return nil, err
	}
	loadAsked(log)
	if err := prepareCgroups(); err != nil {
		return nil, err
	}
	makeNodes(log)
	settings(log)
	if err := loopbackUp(); err != nil {
		return nil, err
	}
	// What is mounted later reaches containers that asked for it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return nil, fmt.Errorf("share mounts: %w", err)
	}
	return log, nil
}

// moveRoot gives the root a parent, which pivot_root(2) needs: an initial RAM file system
// has none.
func moveRoot() error {
	const root = "/root"
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Mount("/", root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return os.Chdir("/")
}

// makeNodes makes the devices whose modules are loaded when they are first opened, as udev
// does on nodes.
func makeNodes(log *slog.Logger) {
	for _, n := range []struct {
		path  string
		mode  uint32
		minor uint32
	}{
		{"/dev/net/tun", 0o666, 200},
		{"/dev/loop-control", 0o660, 237},
	} {
		if err := os.MkdirAll(filepath.Dir(n.path), 0o755); err != nil {
			log.Warn("device is not made", slog.Any("error", err))
			continue
		}
		const misc = 10 // the major number
		err := unix.Mknod(n.path, unix.S_IFCHR|n.mode, int(unix.Mkdev(misc, n.minor)))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			log.Warn("device is not made", slog.String("name", n.path), slog.Any("error", err))
		}
	}
}

// settings writes what the kernel is to do otherwise than by default. None of it is worth
// not starting for.
//
// Much of what Linux limits it derives from the size of memory when it boots, and never
// again: a machine that grew would keep the limits of the small one that it began as. They
// are those of a large one from the start; what they are to protect is the pod's memory,
// which threads, files and sockets count as (cgroups(7)).
func settings(log *slog.Logger) {
	for _, s := range []struct{ file, value string }{
		// A kernel that is no longer right is no place for a pod: the machine ends, and the
		// pod with it.
		{"/proc/sys/kernel/panic_on_oops", "1"},
		{"/proc/sys/kernel/panic", "-1"},
		// Huge pages that nobody asked for are memory that a clone no longer shares.
		{"/sys/kernel/mm/transparent_hugepage/enabled", "madvise"},
		{"/sys/devices/system/memory/auto_online_blocks", "online"},
		// Process 1 writes few lines, and they are all there is.
		{"/proc/sys/kernel/printk_devkmsg", "on\n"},
		// As on nodes, where systemd sets some of them: databases ask for many mappings, the
		// rest for many watches.
		{"/proc/sys/fs/file-max", "9223372036854775807"},
		{"/proc/sys/kernel/pid_max", "4194304"},
		{"/proc/sys/vm/max_map_count", "262144"},
		{"/proc/sys/vm/overcommit_memory", "1"},
		{"/proc/sys/fs/inotify/max_user_instances", "8192"},
		{"/proc/sys/fs/inotify/max_user_watches", "524288"},
		{"/proc/sys/kernel/keys/root_maxkeys", "1000000"},
		{"/proc/sys/kernel/keys/root_maxbytes", "25000000"},
		{"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
		// What a machine of 16 GiB has: threads; pages of all sockets; bytes of one.
		{"/proc/sys/kernel/threads-max", "131072"},
		{"/proc/sys/net/ipv4/tcp_mem", "196608 262144 393216"},
		{"/proc/sys/net/ipv4/udp_mem", "393216 524288 786432"},
		{"/proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456"},
		{"/proc/sys/net/ipv4/tcp_wmem", "4096 16384 4194304"},
	} {
		if err := os.WriteFile(s.file, []byte(s.value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			log.Warn("setting is refused", slog.String("name", s.file), slog.Any("error", err))
		}
	}
	limits(log)
}

// limits sets process 1's, which containers inherit.
func limits(log *slog.Logger) {
	for name, l := range map[string]struct {
		resource int
		limit    unix.Rlimit
	}{
		// The soft limit is low, since there are programs that close all descriptors that
		// they could have.
		"files":     {unix.RLIMIT_NOFILE, unix.Rlimit{Cur: 4096, Max: 1 << 20}},
		"processes": {unix.RLIMIT_NPROC, unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}},
		"signals":   {unix.RLIMIT_SIGPENDING, unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}},
	} {
		if err := unix.Setrlimit(l.resource, &l.limit); err != nil {
			log.Warn("limit is refused", slog.String("name", name), slog.Any("error", err))
		}
	}
}

// modulesDir holds the kernel's modules, if it has any.
const modulesDir = "/lib/modules"

// loadAtBoot loads the modules that the image lists for that. Their files are not needed
// again, and are memory.
func loadAtBoot(log *slog.Logger) error {
	list, err := os.ReadFile(filepath.Join(modulesDir, "boot"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // everything is built in
	}
	if err != nil {
		return fmt.Errorf("list modules: %w", err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		file := filepath.Join(modulesDir, name+".ko")
		// ENODEV: the CPU lacks what the module would use.
		if err := loadModule(file); err != nil && !errors.Is(err, unix.ENODEV) {
			log.Error("load module", slog.String("name", name), slog.Any("error", err))
		}
		os.Remove(file)
	}
	return nil
}

// loadModule loads a module from a file, which may be packed by gzip.
func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if strings.HasSuffix(file, ".gz") {
		var image []byte
		if image, err = unpack(f); err == nil {
			err = unix.InitModule(image, "")
		}
	} else {
		err = unix.FinitModule(int(f.Fd()), "", 0)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", file, err)
	}
	return nil
}

func unpack(r io.Reader) ([]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
