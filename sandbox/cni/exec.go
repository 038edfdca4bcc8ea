package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/sys/unix"
)

const (
	// outputDelay is how long a plugin's output is waited for once the plugin has ended:
	// what it has started may hold it open for ever.
	outputDelay = 2 * time.Second
	// A plugin that is just being written is tried again, as libcni does.
	busyAttempts, busyDelay = 6, time.Second
)

// pluginExec executes plugins as libcni's own does, but never for longer than the context
// lasts: that one kills the plugin alone, and then waits for all that holds its output.
type pluginExec struct{ invoke.DefaultExec }

func newPluginExec() *pluginExec {
	return &pluginExec{invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}}}
}

// ExecPlugin returns what the plugin writes to its standard output. If ctx ends, the
// plugin's process group is killed, and the error wraps that of ctx; what left the group
// may still be at work.
func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	environ = withTrace(ctx, environ)
	stdout, stderr, err := run(ctx, path, stdin, environ)
	for n := 1; n < busyAttempts && errors.Is(err, unix.ETXTBSY) && pause(ctx, busyDelay); n++ {
		stdout, stderr, err = run(ctx, path, stdin, environ)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ctx.Err(), pluginError(err, stdout, stderr))
	case err != nil:
		return nil, pluginError(err, stdout, stderr)
	}
	if len(stderr) > 0 {
		_, _ = e.Stderr.Write(stderr) // only informational
	}
	return stdout, nil
}

func run(ctx context.Context, path string, stdin []byte, environ []string) (stdout, stderr []byte, err error) {
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), &out, &errs
	// A group of its own, so that an IPAM plugin dies with the one that has called it.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return killGroup(c.Process.Pid) }
	c.WaitDelay = outputDelay
	if err = c.Run(); errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it succeeded, and has left something behind that holds its output
	}
	return out.Bytes(), errs.Bytes(), err
}

func killGroup(leader int) error {
	err := unix.Kill(-leader, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// pause tells whether ctx has outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// pluginError is the error that the plugin has written, or says that it has written none.
func pluginError(err error, stdout, stderr []byte) error {
	told := &types.Error{}
	switch {
	case len(stdout) == 0 && len(stderr) == 0:
		told.Msg = fmt.Sprintf("netplugin failed with no error message: %v", err)
	case len(stdout) == 0:
		told.Msg = fmt.Sprintf("netplugin failed: %q: %v", stderr, err)
	default:
		if bad := json.Unmarshal(stdout, told); bad != nil {
			told.Msg = fmt.Sprintf("netplugin failed but error parsing its diagnostic message %q: %v", stdout, bad)
		}
	}
	return told
}

// withTrace tells the plugin which trace it is part of, if it is of one.
func withTrace(ctx context.Context, environ []string) []string {
	found := propagation.MapCarrier{}
	propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}).Inject(ctx, found)
	for name, value := range found {
		environ = append(environ, strings.ToUpper(name)+"="+value)
	}
	return environ
}
