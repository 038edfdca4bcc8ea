// Process 1 of the guests that the package's tests start: it does what lines on a port
// ask for, and answers each with one line.
package main

import (
	"bufio"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range [][3]string{{"devtmpfs", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}} {
		_ = os.MkdirAll(m[1], 0o755)
		if err := unix.Mount(m[0], m[1], m[2], 0, ""); err != nil {
			fmt.Println("mount", m[1], err)
		}
	}
	loadModules()
	go serve("cricket.monitor")
	serve("cricket.daemon")
}

func loadModules() {
	list, err := os.ReadFile("/lib/modules/boot")
	if err != nil {
		fmt.Println(err)
	}
	load(strings.Fields(string(list))...)
}

// modprobe loads a module after those that it depends on.
func modprobe(name string) {
	list, _ := os.ReadFile("/lib/modules/depends")
	for line := range strings.Lines(string(list)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			for _, other := range words[1:] {
				modprobe(other)
			}
		}
	}
	load(name)
}

func load(names ...string) {
	for _, name := range names {
		image, err := os.ReadFile("/lib/modules/" + name + ".ko")
		if err != nil {
			image, err = unpack("/lib/modules/" + name + ".ko.gz")
		}
		if err == nil {
			err = unix.InitModule(image, "")
		}
		if err != nil && err != unix.EEXIST {
			fmt.Println("module", name, err)
		}
	}
}

func unpack(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

func serve(port string) {
	f := open(port)
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		if err != nil { // nobody is connected
			time.Sleep(10 * time.Millisecond)
			lines.Reset(f)
			continue
		}
		// Whoever was cut off in a line is not answered.
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		answer, err := do(words)
		if err != nil {
			answer = "error " + err.Error()
		}
		fmt.Fprintln(f, strings.ReplaceAll(answer, "\n", " "))
	}
}

// open finds a port by its name. The device node is there at once, its name need not be.
func open(port string) *os.File {
	for {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			b, _ := os.ReadFile(n)
			if strings.TrimSpace(string(b)) != port {
				continue
			}
			if f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
				return f
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func do(w []string) (string, error) {
	switch w[0] {
	case "ping":
		return "pong " + strings.Join(w[1:], " "), nil
	case "read": // slot offset length
		return read(w[1], number(w[2]), number(w[3]))
	case "write": // slot offset hex
		return "", write(w[1], number(w[2]), w[3])
	case "size": // slot
		d, err := disk(w[1])
		if err != nil {
			return "", err
		}
		b, err := os.ReadFile("/sys/block/" + filepath.Base(d) + "/size")
		return strings.TrimSpace(string(b)), err
	case "cat": // path
		b, err := os.ReadFile(w[1])
		return string(b), err
	case "put": // path uid gid mode content
		if err := os.WriteFile(w[1], []byte(w[5]), 0o600); err != nil {
			return "", err
		}
		if err := os.Chown(w[1], int(number(w[2])), int(number(w[3]))); err != nil {
			return "", err
		}
		mode, _ := strconv.ParseUint(w[4], 8, 32)
		return "", syscall.Chmod(w[1], uint32(mode))
	case "mkdir": // path uid gid mode
		if err := os.Mkdir(w[1], 0o700); err != nil {
			return "", err
		}
		if err := os.Chown(w[1], int(number(w[2])), int(number(w[3]))); err != nil {
			return "", err
		}
		mode, _ := strconv.ParseUint(w[4], 8, 32)
		return "", syscall.Chmod(w[1], uint32(mode))
	case "stat": // path
		var st unix.Stat_t
		err := unix.Lstat(w[1], &st)
		return fmt.Sprintf("%o %d %d %d", st.Mode, st.Uid, st.Gid, st.Size), err
	case "9p": // target
		_ = os.MkdirAll(w[1], 0o755)
		return "", unix.Mount("cricket.volumes", w[1], "9p", 0, "trans=virtio,version=9p2000.L,cache=none,msize=131072,access=client")
	case "unmount":
		return "", unix.Unmount(w[1], 0)
	case "mknod": // path
		return "", unix.Mknod(w[1], unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	case "pmem": // bus
		for _, name := range []string{"virtio_pmem", "nd_virtio", "nd_pmem"} {
			modprobe(name)
		}
		found, _ := filepath.Glob(fmt.Sprintf("/sys/bus/pci/devices/0000:%02x:00.0/virtio*/ndbus*/region*/namespace*/block/*", number(w[1])))
		if len(found) != 1 {
			return "", fmt.Errorf("devices %v", found)
		}
		f, err := os.Open("/dev/" + filepath.Base(found[0]))
		if err != nil {
			return "", err
		}
		defer f.Close()
		b := make([]byte, 4)
		_, err = f.ReadAt(b, 0)
		return hex.EncodeToString(b), err
	case "mem":
		return memory()
	case "online":
		blocks, _ := filepath.Glob("/sys/devices/system/memory/memory*/state")
		for _, b := range blocks {
			_ = os.WriteFile(b, []byte("online"), 0)
		}
		return memory()
	case "panic":
		return "", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	}
	return "", fmt.Errorf("unknown command %q", w[0])
}

func memory() (string, error) {
	b, err := os.ReadFile("/proc/meminfo")
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.Join(strings.Fields(line), " "), err
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}

// disk finds a block device by its serial number.
func disk(slot string) (string, error) {
	all, _ := filepath.Glob("/sys/block/*/serial")
	for _, s := range all {
		b, _ := os.ReadFile(s)
		if strings.TrimSpace(string(b)) == slot {
			return "/dev/" + filepath.Base(filepath.Dir(s)), nil
		}
	}
	return "", fmt.Errorf("no disk %s", slot)
}

func read(slot string, offset, length int64) (string, error) {
	path, err := disk(slot)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, length)
	_, err = f.ReadAt(b, offset)
	return hex.EncodeToString(b), err
}

func write(slot string, offset int64, data string) error {
	path, err := disk(slot)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := hex.DecodeString(data)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(b, offset); err != nil {
		return err
	}
	return f.Sync()
}
