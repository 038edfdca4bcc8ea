package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime/wirekind"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// patience is how long a caller may take to send its request.
const patience = time.Minute

// ServeCall answers one call on a stream and closes it. The context of the call ends
// with ctx, when the caller's time is over and when the caller hangs up.
func ServeCall(ctx context.Context, c net.Conn, g Guest) {
	var watching sync.WaitGroup
	defer watching.Wait()
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(patience))
	text, content, err := readMessage(c, maxRequest)
	if err != nil {
		return // nobody is there to be answered
	}
	c.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() {
		defer cancel()
		_, _ = c.Read(make([]byte, 1)) // callers send nothing more: this is the end
	})
	a, content := serveRequest(ctx, text, content, g)
	_ = writeMessage(c, a, content, maxAnswer) // the caller sees it missing
}

// serveRequest answers a request, and never panics: this is the guest's process 1.
func serveRequest(ctx context.Context, text, content []byte, g Guest) (a answer, out []byte) {
	defer func() {
		if p := recover(); p != nil {
			a, out = failed(fmt.Errorf("panic: %v: %w\n%s", p, errdefs.ErrInternal, debug.Stack())), nil
		}
	}()
	var r request
	if err := json.Unmarshal(text, &r); err != nil {
		return failed(fmt.Errorf("decode request: %w: %w", errdefs.ErrInvalidArgument, err)), nil
	}
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	v, err := dispatch(ctx, r, content, g)
	if err != nil {
		return failed(err), nil
	}
	if f, ok := v.(File); ok {
		w := wireFile{File: f, Size: len(f.Content)}
		out, w.Content = f.Content, nil
		v = w
	}
	if v == nil {
		return answer{}, nil
	}
	if a.Body, err = json.Marshal(v); err != nil {
		return failed(fmt.Errorf("encode answer: %w", err)), nil
	}
	if n := len(a.Body) + len(out); n > maxAnswer-maxSmall {
		return failed(fmt.Errorf("answer of %d bytes: %w", n, errdefs.ErrResourceExhausted)), nil
	}
	return a, out
}

func dispatch(ctx context.Context, r request, content []byte, g Guest) (any, error) {
	switch r.Op {
	case opHello:
		return g.Hello(ctx)
	case opStat:
		return g.Stat(ctx)
	case opProcesses:
		return g.Processes(ctx)
	case opOnline:
		return nil, with(r, func(o onlineRequest) error { return g.Online(ctx, o.Added) })
	case opIdentify:
		return nil, with(r, func(id Identity) error { return g.Identify(ctx, id) })
	case opStep:
		var nanos int64
		err := with(r, func(by step) (err error) { nanos, err = g.Step(ctx, time.Duration(by)); return err })
		return nanos, err
	case opConnect:
		return nil, with(r, func(n Network) error { return g.Connect(ctx, n) })
	case opSysctl:
		return nil, with(r, func(v sysctls) error { return g.Sysctl(ctx, v) })
	case opMount:
		return nil, with(r, func(m Mount) error { return g.Mount(ctx, m) })
	case opUnmount:
		return nil, with(r, func(p place) error { return g.Unmount(ctx, string(p)) })
	case opPut:
		return nil, with(r, func(w wireFiles) error { return w.put(ctx, content, g) })
	case opGet:
		var f File
		err := with(r, func(p source) (err error) { f, err = g.Get(ctx, string(p)); return err })
		return f, err
	case opRemove:
		return nil, with(r, func(p trees) error { return g.Remove(ctx, p) })
	case opLimit:
		return nil, with(r, func(l limits) error { return g.Limit(ctx, (*specs.LinuxResources)(&l)) })
	case opFreeze:
		var logs map[string]int64
		err := with(r, func(n names) (err error) { logs, err = g.Freeze(ctx, n); return err })
		return logs, err
	case opThaw:
		return nil, with(r, func(n names) error { return g.Thaw(ctx, n) })
	case opSync:
		return nil, with(r, func(s syncRequest) error { return g.Sync(ctx, s.Drop) })
	}
	return nil, fmt.Errorf("operation %q: %w", wirekind.Clean(r.Op, 32), errdefs.ErrNotImplemented)
}

// wireFiles are files without their contents.
type wireFiles []wireFile

func (wireFiles) check() error { return nil } // with the contents

func (w wireFiles) put(ctx context.Context, content []byte, g Guest) error {
	files, err := unpackFiles(w, content)
	if err != nil {
		return err
	}
	if err := fileList(files).check(); err != nil {
		return err
	}
	return g.Put(ctx, files)
}

// with decodes and checks the body of a request and makes the call with it.
func with[T body](r request, do func(T) error) error {
	var v T
	if err := json.Unmarshal(r.Body, &v); err != nil {
		return fmt.Errorf("decode request: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if err := v.check(); err != nil {
		return err
	}
	return do(v)
}
