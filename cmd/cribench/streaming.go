package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// Protocols of the streaming server, as the API server speaks them (KEP-4006 for the newer
// WebSockets, which not every runtime's server takes in the version that clients offer).
const (
	execProtocol    = "v4.channel.k8s.io"
	forwardProtocol = "portforward.k8s.io"
)

// What an exec sends: a little first, to see how much streamTime takes.
const (
	execBlock            = 64 << 10
	execFirst, execMost  = 16 * mebi, 1024 * mebi
	forwardIn, forwardTo = "into a forwarded port", "out of a forwarded port"
)

// measureStreams sends out of an exec and through a forwarded port of each endpoint.
func measureStreams(ctx context.Context, s *session) error {
	defer s.retire(ctx)
	return s.turns(ctx, s.o.repeat, func(b *bench, _ int) error {
		p, err := b.stand(ctx, b.serving)
		if err != nil {
			return err
		}
		if err := p.execStream(ctx); err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		// A port of the host would have to be free there, and serve the other endpoints.
		if b.o.hostNet {
			return nil
		}
		for kind, name := range map[byte]string{hostSends: forwardIn, podSends: forwardTo} {
			rate, err := p.forward(ctx, kind)
			if err != nil {
				return fmt.Errorf("forward a port: %w", err)
			}
			b.result.Add("stream", name, figures.Rate, rate)
		}
		return nil
	})
}

// execStream measures what an exec writes.
func (p *pod) execStream(ctx context.Context) error {
	rate, err := p.execOut(ctx, execFirst)
	if err != nil {
		return err
	}
	size := min(max(int64(rate*mebi*streamTime.Seconds()), execFirst), execMost)
	if rate, err = p.execOut(ctx, size); err != nil {
		return err
	}
	p.b.result.Add("stream", "out of an exec", figures.Rate, rate)
	return nil
}

// execOut is the rate at which so many bytes arrive, from the first of them on.
func (p *pod) execOut(ctx context.Context, size int64) (float64, error) {
	r, err := p.b.runtime.Exec(ctx, &cri.ExecRequest{
		ContainerId: p.ctr, Stdout: true,
		Cmd: []string{"dd", "if=/dev/zero", fmt.Sprintf("bs=%d", execBlock), fmt.Sprintf("count=%d", size/execBlock)},
	})
	if err != nil {
		return 0, err
	}
	conn, err := dialSPDY(ctx, r.GetUrl(), execProtocol)
	if err != nil {
		return 0, err
	}
	defer end(conn)
	header := http.Header{remotecommand.StreamType: {"error"}}
	if _, err := conn.CreateStream(header); err != nil {
		return 0, err
	}
	header = http.Header{remotecommand.StreamType: {"stdout"}}
	out, err := conn.CreateStream(header)
	if err != nil {
		return 0, err
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(out, first); err != nil {
		return 0, fmt.Errorf("nothing arrives: %w", err)
	}
	if first[0] != 0 {
		text, _ := io.ReadAll(io.LimitReader(out, 200))
		return 0, fmt.Errorf("the program says %s%s", first, text)
	}
	began := time.Now()
	n, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{out}, make([]byte, blockSize))
	if err != nil {
		return 0, err
	}
	if want := size/execBlock*execBlock - 1; n != want {
		return 0, fmt.Errorf("%d bytes arrived of %d", n, want)
	}
	return rateOf(n, began), nil
}

// forward measures through a port of the pod.
func (p *pod) forward(ctx context.Context, kind byte) (float64, error) {
	r, err := p.b.runtime.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{streamPort}})
	if err != nil {
		return 0, err
	}
	conn, err := dialSPDY(ctx, r.GetUrl(), forwardProtocol)
	if err != nil {
		return 0, err
	}
	defer end(conn)
	header := http.Header{}
	header.Set("port", strconv.Itoa(streamPort))
	header.Set("requestID", "0")
	header.Set(remotecommand.StreamType, "error")
	if _, err := conn.CreateStream(header); err != nil {
		return 0, err
	}
	header.Set(remotecommand.StreamType, "data")
	data, err := conn.CreateStream(header)
	if err != nil {
		return 0, err
	}
	return exchange(data, kind)
}

// end closes a session. That it cannot say goodbye to a side that has left tells nothing.
func end(conn httpstream.Connection) { _ = conn.Close() }

// dialSPDY opens a session, as the API server does. The context's end closes it.
func dialSPDY(ctx context.Context, url, protocol string) (httpstream.Connection, error) {
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: rt}).Do(req) //nolint:bodyclose // the session is made of its connection
	if err != nil {
		return nil, err
	}
	conn, err := rt.NewConnection(resp)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { end(conn) })
	return conn, nil
}
