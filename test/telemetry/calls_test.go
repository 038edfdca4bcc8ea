package telemetry

import (
	"context"
	"errors"
	"io"
	"path"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Traces that clients begin, as the kubelet does (W3C Trace Context).
const (
	podTrace   = "4bf92f3577b34da6a3ce929d0e0e4736"
	callsTrace = "4bf92f3577b34da6a3ce929d0e0e4737"
	clientSpan = "00f067aa0ba902b7"
)

// within is the context of calls that belong to a client's trace.
func within(ctx context.Context, trace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", "00-"+trace+"-"+clientSpan+"-01")
}

// callEverything calls all that the API has on a socket with requests that say nothing, and
// returns the codes by the names of the methods. That for events, which never end, is not said.
func callEverything(ctx context.Context, t *testing.T, socket string) map[string]codes.Code {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := map[string]codes.Code{}
	for _, service := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			answers[m.MethodName] = callEmpty(ctx, conn, "/"+service.ServiceName+"/"+m.MethodName)
		}
		for _, s := range service.Streams {
			answers[s.StreamName] = callEmpty(ctx, conn, "/"+service.ServiceName+"/"+s.StreamName)
		}
	}
	if len(answers) < 43 {
		t.Fatalf("only %d methods", len(answers))
	}
	return answers
}

// events is the method whose answers never end.
func events() string { return path.Base(cri.RuntimeService_GetContainerEvents_FullMethodName) }

func callEmpty(ctx context.Context, conn *grpc.ClientConn, name string) codes.Code {
	limit := 30 * time.Second
	if path.Base(name) == events() {
		limit = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
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
