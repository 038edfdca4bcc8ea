package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/sandbox"
)

func TestCodeOf(t *testing.T) {
	plain := errors.New("plain")
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{plain, codes.Internal},
		{fmt.Errorf("find: %w", errdefs.ErrNotFound), codes.NotFound},
		{fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, plain), codes.InvalidArgument},
		{fmt.Errorf("%w: %w", plain, errdefs.ErrUnavailable), codes.Unavailable},
		{errors.Join(errdefs.ErrFailedPrecondition, fmt.Errorf("undo: %w", errdefs.ErrNotFound)), codes.FailedPrecondition},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("wait: %w", context.Canceled), codes.Canceled},
		{fmt.Errorf("wait: %w", sandbox.ErrGone), codes.FailedPrecondition},
		{errdefs.ErrUnknown, codes.Internal},
		{errdefs.ErrNotImplemented, codes.Unimplemented},
		{errdefs.ErrNotFound.WithMessage("no such thing"), codes.NotFound},
		{status.Error(codes.OutOfRange, "x"), codes.OutOfRange},
		{fmt.Errorf("wrapped: %w", status.Error(codes.Aborted, "x")), codes.Aborted},
		{status.Error(codes.Unknown, "x"), codes.Internal},
	} {
		if got := codeOf(tt.err); got != tt.want {
			t.Errorf("codeOf(%v) = %v, want %v", tt.err, got, tt.want)
		}
		if got := status.Code(toStatus(tt.err)); got != tt.want {
			t.Errorf("toStatus(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
	if toStatus(nil) != nil {
		t.Error("nil became an error")
	}
}

// connected serves a server through the interceptor.
func connected(t *testing.T, s *Server) *grpc.ClientConn {
	t.Helper()
	conn, _ := serve(t, s, NewInterceptor(slog.New(slog.DiscardHandler), nil).Options()...)
	return conn
}

// serve serves s until stop is called, which returns when calls have been followed to their
// ends, or the test ends.
func serve(t *testing.T, s *Server, o ...grpc.ServerOption) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer(o...)
	s.Register(g)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, g.GracefulStop
}

var errBare = errors.New("an error without a kind")

// failingImages fail without a kind, and panic where that is more telling.
type failingImages struct{}

func (failingImages) Pull(context.Context, string, *image.Auth, ...image.PullOption) (image.Image, error) {
	return image.Image{}, errBare
}
func (failingImages) Import(context.Context, image.Import, image.Content) (image.Image, error) {
	return image.Image{}, errBare
}
func (failingImages) Allow(digest.Digest, string, string) error { return errBare }
func (failingImages) Get(string) (image.Image, error)           { return image.Image{}, errBare }
func (failingImages) List() []image.Image                       { panic("list") }
func (failingImages) Remove(context.Context, string) error      { return errBare }
func (failingImages) Usage() (image.Usage, error)               { return image.Usage{}, errBare }

// TestNoCallAnswersUnknown calls everything, on things that exist, whose every part
// fails or panics.
func TestNoCallAnswersUnknown(t *testing.T) {
	m := newMachine(t)
	pod := m.runPod(t, "p")
	id := m.createContainer(t, pod, "c")
	bare := func(context.Context) error { return errBare }
	m.hull.create, m.hull.make, m.hull.start, m.hull.kill = bare, func(context.Context) error { panic("make") }, bare, bare
	m.server.opts.Images, m.server.opts.Network = failingImages{}, network{errBare}
	conn := connected(t, m.server)
	called := 0
	for _, service := range []grpc.ServiceDesc{v1.RuntimeService_ServiceDesc, v1.ImageService_ServiceDesc} {
		for _, method := range service.Methods {
			for _, ids := range [][2]string{{"", ""}, {"none", "none"}, {pod, id}} {
				called++
				callOne(t, conn, service, method.MethodName, ids[0], ids[1])
			}
		}
	}
	if called < 3*35 {
		t.Errorf("only %d calls", called)
	}
}

func callOne(t *testing.T, conn *grpc.ClientConn, service grpc.ServiceDesc, name, pod, container string) {
	t.Helper()
	handler := reflect.TypeOf(service.HandlerType).Elem()
	method, _ := handler.MethodByName(name)
	req := reflect.New(method.Type.In(1).Elem())
	fill(req.Elem(), pod, container)
	resp := reflect.New(method.Type.Out(0).Elem()).Interface()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := conn.Invoke(ctx, "/"+service.ServiceName+"/"+name, req.Interface(), resp)
	if status.Code(err) == codes.Unknown {
		t.Errorf("%s: %v", name, err)
	}
	if status.Code(err) == codes.Internal && !strings.Contains(err.Error(), errBare.Error()) && !strings.Contains(err.Error(), "panic") {
		t.Errorf("%s: internal error: %v", name, err)
	}
}

// fill makes a request that names things.
func fill(req reflect.Value, pod, container string) {
	set := func(field string, v any) {
		if f := req.FieldByName(field); f.IsValid() && f.Type() == reflect.TypeOf(v) {
			f.Set(reflect.ValueOf(v))
		}
	}
	set("PodSandboxId", pod)
	set("ContainerId", container)
	set("Cmd", []string{"true"})
	set("Image", &v1.ImageSpec{Image: "busybox:1"})
	if pod != "" {
		set("SandboxConfig", podConfig("x"))
		if f := req.FieldByName("Config"); f.IsValid() {
			for _, c := range []any{podConfig("new-" + pod), containerConfig("new")} {
				set("Config", c)
			}
		}
	}
}

func TestPanicsBecomeInternal(t *testing.T) {
	i := NewInterceptor(slog.New(slog.DiscardHandler), nil)
	_, err := i.unary(t.Context(), &v1.VersionRequest{}, &grpc.UnaryServerInfo{FullMethod: "/s/m"},
		func(context.Context, any) (any, error) { panic("oh") })
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "oh") {
		t.Errorf("error: %v", err)
	}
}

func TestTransitions(t *testing.T) {
	all := []v1.ContainerState{v1.ContainerState_CONTAINER_CREATED, v1.ContainerState_CONTAINER_RUNNING, v1.ContainerState_CONTAINER_EXITED, v1.ContainerState_CONTAINER_UNKNOWN}
	for verb, legal := range transitions {
		for _, state := range all {
			err := allow(verb, state)
			if slices.Contains(legal, state) != (err == nil) {
				t.Errorf("%s in %s: %v", verb, state, err)
			}
			if err != nil && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), verb) || !strings.Contains(err.Error(), state.String())) {
				t.Errorf("%s in %s: the error names not both: %v", verb, state, err)
			}
		}
	}
}

func TestFilters(t *testing.T) {
	m := newMachine(t)
	one, two := m.runPod(t, "one"), m.runPod(t, "two")
	a, b := m.createContainer(t, one, "a"), m.createContainer(t, two, "b")
	m.startContainer(t, b)
	if _, err := m.server.StopPodSandbox(t.Context(), &v1.StopPodSandboxRequest{PodSandboxId: one}); err != nil {
		t.Fatal(err)
	}
	running := &v1.ContainerStateValue{State: v1.ContainerState_CONTAINER_RUNNING}
	for _, tt := range []struct {
		f    *v1.ContainerFilter
		want []string
	}{
		{nil, []string{a, b}}, {&v1.ContainerFilter{Id: a[:8]}, []string{a}}, {&v1.ContainerFilter{PodSandboxId: two[:13]}, []string{b}},
		{&v1.ContainerFilter{State: running}, []string{b}}, {&v1.ContainerFilter{LabelSelector: map[string]string{"name": "a"}}, []string{a}},
		{&v1.ContainerFilter{Id: a, State: running}, nil}, {&v1.ContainerFilter{LabelSelector: map[string]string{"other": ""}}, nil},
	} {
		var got []string
		for _, c := range m.server.listContainers(tt.f) {
			got = append(got, c.GetId())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("containers by %v: %v, want %v", tt.f, got, tt.want)
		}
	}
	ready := &v1.PodSandboxStateValue{State: v1.PodSandboxState_SANDBOX_READY}
	for _, tt := range []struct {
		f    *v1.PodSandboxFilter
		want []string
	}{
		{nil, []string{one, two}}, {&v1.PodSandboxFilter{Id: one[:8]}, []string{one}}, {&v1.PodSandboxFilter{State: ready}, []string{two}},
		{&v1.PodSandboxFilter{LabelSelector: map[string]string{"name": "one"}}, []string{one}}, {&v1.PodSandboxFilter{Id: one, State: ready}, nil},
	} {
		var got []string
		for _, s := range m.server.listSandboxes(tt.f) {
			got = append(got, s.GetId())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("sandboxes by %v: %v, want %v", tt.f, got, tt.want)
		}
	}
}
