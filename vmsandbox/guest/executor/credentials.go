package executor

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/spec"
	"github.com/cricket-cri/cricket/vmsandbox/seccomp"
)

// program is what a plan ends in: a process of a container as its user is to have it.
type program struct {
	process *specs.Process
	env     []string
	filter  *seccomp.Filter // nil without
	console bool            // the terminal shows at /dev/console too
}

// defaultPath is where programs are looked for if the environment does not say it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// become appends everything from the container's root to the execution of the program.
// The stub waits once, right before it.
func (g program) become(p *plan) error {
	caps, err := capabilitySets(g.process.Capabilities)
	if err != nil {
		return err
	}
	user := g.process.User
	p.add("make session", unix.SYS_SETSID)
	resetSignals(p)
	if g.process.Terminal {
		g.openTerminal(p)
	}
	again := g.enterDirectory(p)
	mask := uint32(0o022)
	if user.Umask != nil {
		mask = *user.Umask
	}
	p.add("set umask", unix.SYS_UMASK, mask)
	caps.bound(p)
	p.add("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	groups := make([]byte, 0, 4*len(user.AdditionalGids))
	for _, gid := range user.AdditionalGids {
		groups = binary.NativeEndian.AppendUint32(groups, gid)
	}
	p.add("set groups", unix.SYS_SETGROUPS, len(user.AdditionalGids), groups)
	p.add(fmt.Sprintf("become group %d", user.GID), unix.SYS_SETRESGID, user.GID, user.GID, user.GID)
	p.add(fmt.Sprintf("become user %d", user.UID), unix.SYS_SETRESUID, user.UID, user.UID, user.UID)
	// Until it has executed, it shows nothing of itself to those whose user it has now.
	p.add("become undumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	g.retryDirectory(p, again)
	found := g.lookUp(p)
	p.add("close descriptors", unix.SYS_CLOSE_RANGE, 3, uint64(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC)
	if g.process.NoNewPrivileges {
		caps.apply(p)
		caps.raise(p)
		p.add("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		p.ready()
		g.install(p)
	} else {
		// A filter needs a capability that the program may not have. As little as possible
		// comes after it, for it need not let that pass.
		caps.with(unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP).apply(p)
		p.ready()
		g.install(p)
		caps.apply(p)
		caps.raise(p)
	}
	exec := p.add("exec "+g.process.Args[0], unix.SYS_EXECVE, 0, vector(g.process.Args), vector(g.env))
	for _, set := range found {
		p.ops[set].args[0] = exec.argument(0)
	}
	return nil
}

// resetSignals undoes what a program would inherit: signals that we ignore.
func resetSignals(p *plan) {
	standard := p.put(make([]byte, 32)) // struct sigaction of the kernel: SIG_DFL
	for signal := 1; signal <= 64; signal++ {
		if s := unix.Signal(signal); s != unix.SIGKILL && s != unix.SIGSTOP {
			p.add("reset signals", unix.SYS_RT_SIGACTION, signal, standard, 0, 8)
		}
	}
	p.add("reset signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, make([]byte, 8), 0, 8)
}

// openTerminal makes the terminal of the process, whose master it has at fdMaster.
func (g program) openTerminal(p *plan) {
	const label = "open terminal"
	flags := unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	p.keep(p.add(label, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/pts/ptmx", flags, 0), fdMaster)
	p.add(label, unix.SYS_IOCTL, fdMaster, unix.TIOCSPTLCK, make([]byte, 4))
	p.keep(p.add(label, unix.SYS_IOCTL, fdMaster, unix.TIOCGPTPEER, flags), fdSlave)
	p.tolerate(p.add("", unix.SYS_FCHOWN, fdSlave, g.process.User.UID, -1))
	p.add("take terminal", unix.SYS_IOCTL, fdSlave, unix.TIOCSCTTY, 0)
	for fd := range 3 {
		p.add(label, unix.SYS_DUP3, fdSlave, fd, 0)
	}
	if size := g.process.ConsoleSize; size != nil {
		ws := binary.NativeEndian.AppendUint16(nil, uint16(size.Height))
		ws = binary.NativeEndian.AppendUint16(ws, uint16(size.Width))
		p.tolerate(p.add("", unix.SYS_IOCTL, fdMaster, unix.TIOCSWINSZ, append(ws, 0, 0, 0, 0)))
	}
	if !g.console {
		return
	}
	// A container whose /dev cannot take it has none.
	open := p.add("", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/console", unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o620)
	tree := p.add("", unix.SYS_OPEN_TREE, fdSlave, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	move := p.add("", unix.SYS_MOVE_MOUNT, 0, "", unix.AT_FDCWD, "/dev/console", unix.MOVE_MOUNT_F_EMPTY_PATH)
	p.into(tree, move, 0)
	for _, r := range []ref{open, tree, move} {
		p.failure(r, p.next())
	}
}

// enterDirectory changes to the working directory with the privileges of root. Where
// those do not suffice, as on a file system that has its own idea of root, what it
// returns makes the user try again.
func (g program) enterDirectory(p *plan) (again ref) {
	dir := p.add("change to directory "+g.process.Cwd, unix.SYS_CHDIR, g.process.Cwd)
	p.tolerate(dir, unix.EACCES)
	again = p.set(0, unix.SYS_CHDIR)
	p.success(dir, p.next())
	return again
}

func (g program) retryDirectory(p *plan, again ref) {
	retry := p.add("change to directory "+g.process.Cwd, unix.SYS_GETPID, g.process.Cwd)
	p.ops[again].args[0] = retry.address()
}

// lookUp finds the program as the user would. It returns the operations that store its
// path, whose target is still open.
func (g program) lookUp(p *plan) (found []ref) {
	name := g.process.Args[0]
	label := fmt.Sprintf("exec: %q", name)
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for dir := range strings.SplitSeq(pathOf(g.env), ":") {
			if dir == "" {
				dir = "."
			}
			candidates = append(candidates, path.Join(dir, name))
			if dir == "." {
				candidates[len(candidates)-1] = "./" + name
			}
		}
	}
	single := strings.Contains(name, "/")
	var leave []ref
	for _, c := range candidates {
		if name == "" {
			break
		}
		dir := p.add(label, unix.SYS_OPENAT, unix.AT_FDCWD, c, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		p.tolerate(dir)
		if single {
			refuse := p.fail(label, unix.EISDIR)
			p.failure(dir, refuse+1)
		}
		test := p.add(label, unix.SYS_FACCESSAT2, unix.AT_FDCWD, c, unix.X_OK, unix.AT_EACCESS)
		set := p.set(0, c)
		done := p.set(planBase+8, 0)
		found, leave = append(found, set), append(leave, done)
		if !single {
			p.success(dir, p.next())
			p.failure(test, p.next())
		}
	}
	if !single || name == "" {
		p.fail(label+": executable file not found in $PATH", unix.ENOENT)
	}
	for _, r := range leave {
		p.success(r, p.next())
	}
	return found
}

func pathOf(env []string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return defaultPath
}

func (g program) install(p *plan) {
	if g.filter == nil {
		return
	}
	code := make([]byte, 0, 8*len(g.filter.Program))
	for _, f := range g.filter.Program {
		code = binary.NativeEndian.AppendUint16(code, f.Code)
		code = append(code, f.Jt, f.Jf)
		code = binary.NativeEndian.AppendUint32(code, f.K)
	}
	head := binary.NativeEndian.AppendUint64(nil, uint64(len(g.filter.Program)))
	head = binary.NativeEndian.AppendUint64(head, p.put(code))
	p.add("install seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, int(g.filter.Flags), head)
}

// capabilities are the sets of a process as bits.
type capabilities struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

func capabilitySets(c *specs.LinuxCapabilities) (out capabilities, err error) {
	if c == nil {
		return out, nil
	}
	known := spec.AllCapabilities() // in the order of their numbers
	for _, s := range []struct {
		bits  *uint64
		names []string
	}{{&out.bounding, c.Bounding}, {&out.effective, c.Effective}, {&out.permitted, c.Permitted},
		{&out.inheritable, c.Inheritable}, {&out.ambient, c.Ambient}} {
		for _, name := range s.names {
			i := slices.Index(known, name)
			if i < 0 {
				return out, fmt.Errorf("capability %q: %w", name, errdefs.ErrInvalidArgument)
			}
			*s.bits |= 1 << i
		}
	}
	return out, nil
}

// bound drops from the bounding set. What the kernel does not know it does not have.
func (c capabilities) bound(p *plan) {
	for i := range 64 {
		if c.bounding&(1<<i) == 0 {
			p.tolerate(p.add("drop capability", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, i, 0, 0, 0), unix.EINVAL)
		}
	}
}

func (c capabilities) with(more ...int) capabilities {
	for _, i := range more {
		c.permitted |= 1 << i
		c.effective |= 1 << i
	}
	return c
}

func (c capabilities) apply(p *plan) {
	head := binary.NativeEndian.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3)
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []uint64{c.effective, c.permitted, c.inheritable} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	p.add("set capabilities", unix.SYS_CAPSET, head, data)
}

func (c capabilities) raise(p *plan) {
	for i := range 64 {
		if c.ambient&(1<<i) != 0 {
			p.add("raise ambient capability "+spec.AllCapabilities()[i], unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0)
		}
	}
}
