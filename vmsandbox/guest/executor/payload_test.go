package executor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// payloadArg makes the test program what runs in containers.
const payloadArg = "be-the-payload"

// report is what a process in a container sees of it.
type report struct {
	Pid, Session, UID, GID int
	Groups                 []int
	Umask                  int
	Hostname, Cwd          string
	Env                    []string
	Status                 map[string]string // of /proc/self/status
	Mounts                 map[string]string // mount point: options, type and options of the file system
	Namespaces             map[string]string
	Limits                 map[string]uint64 // soft
	OOMScoreAdj            string
	Descriptors            []string
	Dev                    []string
	Terminal               bool
	Cgroup                 string
	Seccomp                string
}

func payload(args []string) {
	if len(args) == 0 {
		args = []string{"report"}
	}
	code := 0
	switch args[0] {
	case "report":
		_ = json.NewEncoder(os.Stdout).Encode(look())
	case "sleep":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		fmt.Println("sleeping")
		select {
		case <-stop:
			code = 3
		case <-time.After(10 * time.Minute):
		}
	case "eat":
		for all := [][]byte{}; ; {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
			if len(all) > 1000 {
				break
			}
		}
	case "exit":
		code, _ = strconv.Atoi(args[1])
	case "cat":
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			fmt.Println("got " + lines.Text())
		}
	case "try":
		for _, a := range args[1:] {
			fmt.Println(a + ": " + try(a))
		}
	}
	os.Exit(code)
}

// try does one thing and says how it went: VERB=ARGUMENT.
func try(what string) string {
	verb, arg, _ := strings.Cut(what, "=")
	var err error
	switch verb {
	case "read":
		var f *os.File
		if f, err = os.Open(arg); err == nil {
			_, err = f.Read(make([]byte, 1))
			f.Close()
		}
	case "write":
		var f *os.File
		if f, err = os.OpenFile(arg, os.O_WRONLY|os.O_CREATE, 0o644); err == nil {
			f.Close()
		}
	case "list":
		var entries []os.DirEntry
		if entries, err = os.ReadDir(arg); err == nil {
			return fmt.Sprint(len(entries))
		}
	case "owner":
		var st unix.Stat_t
		if err = unix.Stat(arg, &st); err == nil {
			return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
		}
	case "mknod": // of /dev/mem, and open it
		if err = unix.Mknod(arg, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1))); err == nil {
			var fd int
			if fd, err = unix.Open(arg, unix.O_RDONLY, 0); err == nil {
				unix.Close(fd)
			}
		}
	case "mount":
		err = unix.Mount("x", arg, "tmpfs", 0, "")
	case "unshare":
		_, _, errno := unix.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWUTS, 0, 0)
		if errno != 0 {
			err = errno
		}
	case "cat":
		var b []byte
		if b, err = os.ReadFile(arg); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func look() report {
	r := report{Pid: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), Env: os.Environ(),
		Status: map[string]string{}, Mounts: map[string]string{}, Namespaces: map[string]string{}, Limits: map[string]uint64{}}
	r.Groups, _ = os.Getgroups()
	r.Session, _ = unix.Getsid(0)
	r.Umask = unix.Umask(0)
	r.Hostname, _ = os.Hostname()
	r.Cwd, _ = os.Getwd()
	for line := range strings.Lines(read("/proc/self/status")) {
		key, value, _ := strings.Cut(line, ":")
		r.Status[key] = strings.TrimSpace(value)
	}
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		f := strings.Fields(line)
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		rest := strings.Fields(after)
		tags := strings.Join(strings.Fields(before)[6:], ",")
		r.Mounts[f[4]] = f[5] + " " + rest[0] + " " + rest[2] + " " + tags
	}
	links, _ := filepath.Glob("/proc/self/ns/*")
	for _, l := range links {
		r.Namespaces[filepath.Base(l)], _ = os.Readlink(l)
	}
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	r.Limits["core"] = limit.Cur
	r.OOMScoreAdj = read("/proc/self/oom_score_adj")
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && !strings.Contains(target, "anon_inode") {
			r.Descriptors = append(r.Descriptors, fd.Name()+" "+target)
		}
	}
	dev, _ := os.ReadDir("/dev")
	for _, d := range dev {
		r.Dev = append(r.Dev, d.Name())
	}
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	r.Terminal = err == nil
	r.Cgroup = read("/proc/self/cgroup")
	return r
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSuffix(string(b), "\n")
}
