package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mounts are those of mountinfo: of several at one path, later ones are numbered.
func mounts(d document) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.set("mounts", "", err)
		return
	}
	seen := map[string]int{}
	var order []string
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, tail := strings.Fields(before), strings.Fields(after)
		if len(f) < 6 || len(tail) < 3 {
			continue
		}
		name := f[4]
		if seen[f[4]]++; seen[f[4]] > 1 {
			name += " #" + strconv.Itoa(seen[f[4]])
		}
		order = append(order, name)
		propagation := "private"
		for _, tag := range f[6:] {
			kind, _, _ := strings.Cut(tag, ":")
			propagation = strings.TrimPrefix(propagation+" "+kind, "private ")
		}
		mount := "mount." + name
		d[mount+".type"], d[mount+".options"], d[mount+".propagation"] = tail[0], sorted(f[5]), propagation
		d[mount+".root"], d[mount+".source"], d[mount+".super"] = f[3], tail[1], sorted(tail[2])
		owner(d, mount+".owner", f[4])
	}
	slices.Sort(order)
	d["mounts"] = strings.Join(order, " ")
}

func sorted(options string) string {
	list := strings.Split(options, ",")
	slices.Sort(list)
	return strings.Join(list, ",")
}

func owner(d document, name, path string) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	d.set(name, fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid), err)
}

// devices lists /dev, and which of its nodes can be opened.
func devices(d document) {
	err := filepath.WalkDir("/dev", func(path string, e os.DirEntry, err error) error {
		if err != nil {
			d.set("device."+path, "", err)
			return nil
		}
		d.set("device."+path, node(path), nil)
		// What others put there is no part of the container's make.
		if path == "/dev/shm" || path == "/dev/mqueue" || path == "/dev/pts" {
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		d.set("devices", "", err)
	}
	for _, path := range []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/fuse", "/dev/kvm", "/dev/probe", "/dev/mem"} {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		d.set("opened."+path, "yes", err)
		if err == nil {
			f.Close()
		}
	}
	path := "/dev/made-by-probe"
	err = unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11)))
	d.set("mknod", "yes", err)
	if err == nil {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		d.set("opened.made", "yes", err)
		if err == nil {
			f.Close()
		}
		os.Remove(path)
	}
}

func node(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "error " + kind(err)
	}
	text := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return fmt.Sprintf("char %d:%d %s", unix.Major(st.Rdev), unix.Minor(st.Rdev), text)
	case unix.S_IFBLK:
		return fmt.Sprintf("block %d:%d %s", unix.Major(st.Rdev), unix.Minor(st.Rdev), text)
	case unix.S_IFDIR:
		return "dir " + text
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "error " + kind(err)
		}
		return "link " + target
	default:
		return "file " + text
	}
}

// shown are files whose content a container is given, or that cases mount.
var shown = []string{
	"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/passwd", "/etc/group", "/volume/file", "/volume/below/file", "/volume-file",
	"/volume2/file", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/1/comm",
}

func files(d document) {
	for _, path := range shown {
		data, err := os.ReadFile(path)
		d.set("file."+path, string(data), err)
		owner(d, "file."+path+".owner", path)
	}
	for _, path := range []string{"/", "/tmp", "/dev", "/dev/shm", "/etc/hosts", "/proc/sys/kernel/shmmax", "/sys/fs/cgroup", "/volume", "/volume/below", "/volume2", "/image"} {
		d.set("write."+path, "yes", write(path))
	}
	for _, path := range []string{"/dev/shm", "/dev"} {
		var fs unix.Statfs_t
		err := unix.Statfs(path, &fs)
		d.set("size."+path, strconv.FormatUint(fs.Blocks*uint64(fs.Bsize)>>10, 10)+"k", err)
	}
	for _, path := range []string{"/volume", "/volume2", "/image", "/data"} {
		entries, err := os.ReadDir(path)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		d.set("list."+path, strings.Join(names, " "), err)
	}
}

// write tries it: access(2) is answered by the container's kernel alone, whoever has the
// files.
func write(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		name := fmt.Sprintf("%s/probe-%d", path, os.Getpid())
		if err := unix.Mkdir(name, 0o700); err != nil {
			return err
		}
		return unix.Rmdir(name)
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// hidden are the paths that runtimes mask or make read-only, and the kubelet's list.
var hidden = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
	"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/bin", "/tmp",
}

// paths says of each whether it is there, shows something, and can be written to.
func paths(d document) {
	for _, path := range hidden {
		text := node(path)
		if entries, err := os.ReadDir(path); err == nil && len(entries) == 0 {
			text += " empty"
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err == nil {
			text += fmt.Sprintf(" on %x", fs.Type)
			if fs.Flags&unix.ST_RDONLY != 0 {
				text += " read-only"
			}
		}
		d["path."+path] = text
	}
}
