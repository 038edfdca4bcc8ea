package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/cricket-cri/cricket/test/harness"
)

//go:embed shape.yaml
var shapeManifest []byte

// shape runs a pod with users of its own, a sidecar, a hook, a host port and volumes.
func (n *node) shape(ctx context.Context) error {
	const name = "shape-" + hostname
	if err := putManifest("shape", shapeManifest); err != nil {
		return err
	}
	var p pod
	err := harness.Until(ctx, runLimit, func(ctx context.Context) (err error) {
		p, err = n.ready(ctx, name)
		return err
	})
	if err != nil {
		return err
	}
	errs := []error{n.shapeSees(ctx, p), hostPort(ctx)}
	// The volume belongs to the machine's users, whoever writes to it.
	path := "/var/lib/kubelet/pods/" + p.Metadata.UID + "/volumes/kubernetes.io~empty-dir/shared/hook"
	if info, err := os.Stat(path); err != nil {
		errs = append(errs, err)
	} else if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		errs = append(errs, fmt.Errorf("what root in the pod wrote belongs to user %d", uid))
	}
	errs = append(errs, os.Remove(manifests+"/shape.yaml"), harness.Until(ctx, runLimit, func(ctx context.Context) error {
		if _, err := n.find(ctx, name); err == nil {
			return errors.New("the kubelet still has the pod")
		}
		return nil
	}))
	return errors.Join(errs...)
}

// shapeSees compares what the pod's container sees.
func (n *node) shapeSees(ctx context.Context, p pod) error {
	var errs []error
	for command, want := range map[string]string{
		"cat /file":           "sidecar",
		"cat /shared/hook":    "hook",
		"cat /about/name":     p.Metadata.Name,
		"printenv POD_IP":     p.Status.PodIP,
		"stat -c %u /shared":  "0",
		"touch /shared/again": "",
	} {
		if got, err := n.kubelet.run(ctx, p, "web", command); err != nil || got != want {
			errs = append(errs, fmt.Errorf("%s: %q, %w, want %q", command, got, err, want))
		}
	}
	users, err := n.kubelet.run(ctx, p, "web", "cat /proc/self/uid_map")
	if f := strings.Fields(users); err != nil || len(f) != 3 || f[0] != "0" || f[1] == "0" {
		errs = append(errs, fmt.Errorf("the users are %q (%w)", users, err))
	}
	return errors.Join(errs...)
}

func hostPort(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+nodeIP+":18081/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the host port answers %s", resp.Status)
	}
	return nil
}
