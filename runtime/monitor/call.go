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
	return s.callWith(rt, dir, nil, &streams, nil, args)
}

// callWith is call with prepared mounts and standard streams for the command and what
// it leaves behind. begun, if not nil, is told the command's process id as early as can
// be. Nothing interrupts a runtime in its middle.
func (s *Server) callWith(rt oci.Runtime, dir string, overlays []Overlay, streams *childStreams, begun func(pid int), args func(log string) []string) error {
	log := filepath.Join(dir, "runtime-"+strconv.FormatUint(s.calls.Add(1), 10)+".log")
	defer os.Remove(log)
	argv := args(log)
	var ended <-chan status
	spawn := func() error {
		// A session of its own: not all runtimes make one for the processes of an exec,
		// and by it their descendants are known.
		sys := &syscall.SysProcAttr{Setsid: true}
		pid, ch, err := s.reaper.spawn(argv, &syscall.ProcAttr{Dir: dir, Env: runtimeEnv(), Files: streams.fds(), Sys: sys})
		if err != nil {
			return fmt.Errorf("run %s: %w", argv[0], err)
		}
		ended = ch
		if begun != nil {
			begun(pid)
		}
		return nil
	}
	var err error
	if hide := rt.Crun() && hybrid(); len(overlays) > 0 || hide {
		err = inPrivateMounts(func() error {
			if hide {
				if err := hideUnified(); err != nil {
					return err
				}
			}
			if err := mountAll(dir, overlays); err != nil {
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

// runtimeEnv is the environment of OCI runtimes: nothing of ours but where programs are.
func runtimeEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
