package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// exec does what kubectl exec does, without the API server before the kubelet.
func (n *node) exec(ctx context.Context) error {
	query := url.Values{
		"command": {"sh", "-c", "read x; echo got $x; exit 3"},
		"input":   {"1"}, "output": {"1"},
	}
	conn, err := n.kubelet.upgrade(ctx, "/exec/default/"+podName+"/app?"+query.Encode())
	if err != nil {
		return err
	}
	defer conn.Close()
	streams := map[string]httpstream.Stream{}
	for _, kind := range []string{"error", "stdin", "stdout"} {
		if streams[kind], err = conn.CreateStream(http.Header{remotecommand.StreamType: {kind}}); err != nil {
			return fmt.Errorf("open stream %s: %w", kind, err)
		}
	}
	if _, err := io.WriteString(streams["stdin"], "something\n"); err != nil {
		return err
	}
	out, err := io.ReadAll(streams["stdout"])
	if err != nil {
		return err
	}
	var end struct {
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.NewDecoder(streams["error"]).Decode(&end); err != nil {
		return fmt.Errorf("read the exit code: %w", err)
	}
	if c := end.Details.Causes; string(out) != "got something\n" || len(c) != 1 || c[0].Message != "3" {
		return fmt.Errorf("the output is %q, the end %+v", out, end)
	}
	return nil
}

// upgrade opens a connection with streams.
func (k *kubelet) upgrade(ctx context.Context, path string) (httpstream.Connection, error) {
	rt, err := spdy.NewRoundTripper(&tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, "v4.channel.k8s.io")
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return nil, err
	}
	return rt.NewConnection(resp)
}
