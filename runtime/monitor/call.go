package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// call runs one command of an OCI runtime to its end. args is told where the runtime
// shall log. An error quotes what the runtime logged.
func (s *Server) call(rt oci.Runtime, dir string, args func(log string) []string) error {
	streams, err := nullStreams()
	if err != nil {
		return err
	}
	defer streams.close()
	return s.callWith(rt, dir, callOptions{streams: &streams}, args)
}

// callOptions are what a call of an OCI runtime can have.
type callOptions struct {
	// overlays are mounted for the command alone.
	overlays []Overlay
	// streams are for the command and what it leaves behind.
	streams *childStreams
	// begun, if not nil, is told the command's process id as early as can be.
	begun func(pid int)
	// programs, if not empty, is a directory where the command finds programs first.
	programs string
	// env is added to the command's environment.
	env []string
}

// callWith is call with options. Nothing interrupts a runtime in its middle.
func (s *Server) callWith(rt oci.Runtime, dir string, o callOptions, args func(log string) []string) error {
	log := filepath.Join(dir, "runtime-"+strconv.FormatUint(s.calls.Add(1), 10)+".log")
	defer os.Remove(log)
	argv := args(log)
	var ended <-chan status
	spawn := func() error {
		// A session of its own: not all runtimes make one for the processes of an exec,
		// and by it their descendants are known.
		sys := &syscall.SysProcAttr{Setsid: true}
		attr := &syscall.ProcAttr{Dir: dir, Env: append(runtimeEnv(o.programs), o.env...), Files: o.streams.fds(), Sys: sys}
		pid := 0
		err := s.binaries.execute(rt, func(name string) (err error) {
			pid, ended, err = s.reaper.spawn(name, argv, attr)
			return err
		})
		if err != nil {
			return fmt.Errorf("run %s: %w", argv[0], err)
		}
		if o.begun != nil {
			o.begun(pid)
		}
		return nil
	}
	var err error
	if hide := rt.Crun() && hybrid(); len(o.overlays) > 0 || hide {
		err = inPrivateMounts(func() error {
			if hide {
				if err := hideUnified(); err != nil {
					return err
				}
			}
			if err := mountAll(dir, o.overlays); err != nil {
				return err
			}
			return spawn()
		})
	} else {
		err = spawn()
	}
	if err != nil {
		return err
	}
	st := <-ended
	if st.code == 0 {
		return nil
	}
	return runtimeError(rt, st, log)
}

// runtimeError makes an error of what the runtime logged.
func runtimeError(rt oci.Runtime, st status, log string) error {
	b, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read log of %s: %w", rt.Name, err)
	}
	text := oci.Message(b)
	if text == "" {
		text = fmt.Sprintf("exit code %d", st.code)
	}
	return fmt.Errorf("run %s: %s: %w", rt.Name, text, oci.Kind(text))
}

// goneMessage recognizes a runtime's complaint that it does not know the container.
func goneMessage(err error) bool {
	text := err.Error()
	for _, known := range []string{"does not exist", "No such file or directory", "not found"} {
		if strings.Contains(text, known) {
			return true
		}
	}
	return false
}

// runtimeEnv is the environment of OCI runtimes: nothing of ours but where programs are,
// those in first before all others.
func runtimeEnv(first string) []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if first != "" {
		path = first + ":" + path
	}
	env := []string{"PATH=" + path}
	for _, name := range []string{"DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
