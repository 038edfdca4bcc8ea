package cri

import (
	"context"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/ops"
	"github.com/cricket-cri/cricket/cri/trace"
)

// slowCall is the duration from which a call is worth a line at level info. A stream of
// events lasts for as long as its client wants.
const slowCall = 10 * time.Second

// Interceptor sees every call from both sides: it logs it, counts it, turns its error
// into a gRPC status and a panic into Internal.
type Interceptor struct {
	log    *slog.Logger
	number atomic.Uint64
	calls  sync.RWMutex // held shared by every call
	// observe, if set, is told of every call when it ends.
	observe func(method string, took time.Duration, code codes.Code)
}

// NewInterceptor makes an interceptor. observe may be nil; it must not block.
func NewInterceptor(log *slog.Logger, observe func(method string, took time.Duration, code codes.Code)) *Interceptor {
	return &Interceptor{log: log, observe: observe}
}

// Options make a gRPC server show i every call.
func (i *Interceptor) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.UnaryInterceptor(i.unary), grpc.StreamInterceptor(i.stream)}
}

func (i *Interceptor) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	i.calls.RLock()
	defer i.calls.RUnlock()
	log := i.begin(ctx, info.FullMethod)
	log.Debug("call", ids(req)...)
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = ops.Panicked(log, p)
		}
		describe(ctx, req, resp, err)
		err = i.end(log, info.FullMethod, began, err, ids(req))
		if err != nil {
			resp = nil
		}
	}()
	return handle(ctx, req)
}

func (i *Interceptor) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	i.calls.RLock()
	defer i.calls.RUnlock()
	log := i.begin(stream.Context(), info.FullMethod)
	log.Debug("call")
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = ops.Panicked(log, p)
		}
		trace.Record(stream.Context(), err)
		err = i.end(log, info.FullMethod, began, err, nil)
	}()
	return handle(srv, stream)
}

// AwaitIdle returns when the calls under way have ended. Calls that come in the meantime
// wait until then, so it is for the end of a server.
func (i *Interceptor) AwaitIdle() {
	i.calls.Lock()
	defer i.calls.Unlock()
}

func (i *Interceptor) begin(ctx context.Context, method string) *slog.Logger {
	log := i.log.With("method", path.Base(method), "call", i.number.Add(1))
	if id := trace.ID(ctx); id != "" {
		log = log.With("trace", id)
	}
	return log
}

// describe says in a call's span what the call was about, and how it failed.
func describe(ctx context.Context, req, resp any, err error) {
	if trace.ID(ctx) == "" {
		return
	}
	for _, message := range []any{req, resp} {
		if m, ok := message.(interface{ GetPodSandboxId() string }); ok {
			trace.Describe(ctx, "cricket.sandbox.id", m.GetPodSandboxId())
		}
		if m, ok := message.(interface{ GetContainerId() string }); ok {
			trace.Describe(ctx, "container.id", m.GetContainerId())
		}
	}
	if r, ok := req.(*v1.RunPodSandboxRequest); ok {
		pod := r.GetConfig().GetMetadata()
		trace.Describe(ctx, "k8s.pod.name", pod.GetName(), "k8s.namespace.name", pod.GetNamespace())
	}
	if r, ok := req.(*v1.PullImageRequest); ok {
		trace.Describe(ctx, "container.image.name", r.GetImage().GetImage())
	}
	trace.Record(ctx, err)
}

func (i *Interceptor) end(log *slog.Logger, method string, began time.Time, err error, ids []any) error {
	took := time.Since(began)
	err = toStatus(err)
	code := status.Code(err)
	if i.observe != nil {
		i.observe(path.Base(method), took, code)
	}
	args := append([]any{"took", took, "code", code.String()}, ids...)
	switch {
	case code == codes.Internal || code == codes.DataLoss:
		log.Error("call failed", append(args, "error", err)...)
	case code == codes.NotFound || code == codes.Canceled:
		log.Debug("call failed", append(args, "error", err)...)
	case err != nil:
		log.Warn("call failed", append(args, "error", err)...)
	case took > slowCall && method != v1.RuntimeService_GetContainerEvents_FullMethodName:
		log.Info("call was slow", args...)
	default:
		log.Debug("call done", args...)
	}
	return err
}

// ids are the log attributes of whatever a request is about.
func ids(req any) []any {
	var args []any
	if r, ok := req.(interface{ GetPodSandboxId() string }); ok {
		args = append(args, "sandbox", r.GetPodSandboxId())
	}
	if r, ok := req.(interface{ GetContainerId() string }); ok {
		args = append(args, "container", r.GetContainerId())
	}
	return args
}
