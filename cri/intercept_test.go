package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/trace"
	"github.com/cricket-cri/cricket/cri/trace/otlptest"
)

func TestSlowCallsAreLogged(t *testing.T) {
	for method, want := range map[string]bool{
		v1.RuntimeService_StopPodSandbox_FullMethodName:     true,
		v1.RuntimeService_GetContainerEvents_FullMethodName: false,
	} {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil)) // level info
		if err := NewInterceptor(log, nil).end(log, method, time.Now().Add(-time.Minute), nil, nil); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(out.String(), "slow"); got != want {
			t.Errorf("%s for a minute: %q, want a line: %v", method, out.String(), want)
		}
	}
}

// TestEveryCallIsTracedAndCounted calls everything that the API has with empty requests. Of
// each it finds one span below the client's own, and one count, with the code that the client
// was answered.
func TestEveryCallIsTracedAndCounted(t *testing.T) {
	m := newMachine(t)
	m.server.EndEvents() // or a stream of events would have no end
	collector, address, stop, err := otlptest.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	log := slog.New(slog.DiscardHandler)
	p, err := trace.New(t.Context(), trace.Options{Endpoint: address, Insecure: true, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	counts := NewMetrics("test")
	conn, stopServing := serve(t, m.server, append(NewInterceptor(log, counts.Observe).Options(), grpc.StatsHandler(p.Handler()))...)
	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+traceID+"-"+parent+"-01")
	answers := map[string]codes.Code{}
	for _, name := range methods() {
		answers[name] = callEmpty(ctx, conn, name)
	}
	stopServing() // a span ends when its call has been answered
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	spans := map[string][]otlptest.Span{}
	for _, s := range collector.Spans(traceID) {
		if s.Parent == parent {
			spans[s.Name] = append(spans[s.Name], s)
		}
	}
	w := httptest.NewRecorder()
	counts.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for name, code := range answers {
		of := spans[name]
		if len(of) != 1 || of[0].Attributes["rpc.response.status_code"] != spanCode(code) {
			t.Errorf("%s answered %s, and its spans are %+v", name, code, of)
		}
		_, method, _ := strings.Cut(name, "/")
		if line := fmt.Sprintf("\ncricket_call_duration_seconds_count{code=%q,method=%q} 1\n", code.String(), method); !strings.Contains(w.Body.String(), line) {
			t.Errorf("%s answered %s, and there is no line%s", name, code, line)
		}
	}
	if len(answers) < 43 || len(spans) != len(answers) {
		t.Errorf("%d calls, spans of %d", len(answers), len(spans))
	}
}

// methods are all that the API has, as SERVICE/METHOD.
func methods() (all []string) {
	for _, service := range []grpc.ServiceDesc{v1.RuntimeService_ServiceDesc, v1.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			all = append(all, service.ServiceName+"/"+m.MethodName)
		}
		for _, s := range service.Streams {
			all = append(all, service.ServiceName+"/"+s.StreamName)
		}
	}
	return all
}

// callEmpty calls a method of any kind with a request that says nothing, and returns the code
// at the end of its answers.
func callEmpty(ctx context.Context, conn *grpc.ClientConn, name string) codes.Code {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+name)
	if err == nil {
		err = errors.Join(s.SendMsg(&emptypb.Empty{}), s.CloseSend())
	}
	for err == nil {
		err = s.RecvMsg(&emptypb.Empty{})
	}
	if errors.Is(err, io.EOF) {
		return codes.OK
	}
	return status.Code(err)
}

// spanCode is a code as OpenTelemetry writes it: INVALID_ARGUMENT.
func spanCode(c codes.Code) string {
	if c == codes.OK {
		return "OK"
	}
	var out strings.Builder
	for i, r := range c.String() {
		if i > 0 && 'A' <= r && r <= 'Z' {
			out.WriteByte('_')
		}
		out.WriteRune(r)
	}
	return strings.ToUpper(out.String())
}
