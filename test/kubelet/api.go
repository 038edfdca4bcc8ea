package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// address is where the kubelet serves.
const address = "127.0.0.1:10250"

// pod is the part of a v1.Pod that the test looks at.
type pod struct {
	Metadata struct{ Name, Namespace, UID string }
	Status   struct {
		Phase, PodIP          string
		Conditions            []struct{ Type, Status string }
		InitContainerStatuses []container
		ContainerStatuses     []container
	}
}

// container is the part of a v1.ContainerStatus that the test looks at.
type container struct {
	Name, ContainerID, ImageID string
	Ready                      bool
	RestartCount               int
	State, LastState           state
}

type state struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *struct {
		ExitCode              int
		Reason                string
		StartedAt, FinishedAt time.Time
	}
}

// container finds a container's status, which is empty as long as there is none.
func (p pod) container(name string) container {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	return container{}
}

// ready tells whether the pod says so of itself.
func (p pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// summary is the part of the kubelet's stats summary that the test looks at.
type summary struct{ Pods []podFigures }

type podFigures struct {
	PodRef struct{ Name string }
	figures
	Containers []struct {
		Name string
		figures
		Rootfs, Logs struct{ UsedBytes *uint64 }
	}
}

type figures struct {
	CPU    struct{ UsageCoreNanoSeconds uint64 }
	Memory struct{ WorkingSetBytes uint64 }
}

// pods lists what the kubelet runs.
func (k *kubelet) pods(ctx context.Context) ([]pod, error) {
	var list struct{ Items []pod }
	err := k.get(ctx, "/pods", &list)
	return list.Items, err
}

func (k *kubelet) get(ctx context.Context, path string, v any) error {
	data, err := k.request(ctx, http.MethodGet, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

func (k *kubelet) request(ctx context.Context, method, path string) ([]byte, error) {
	if err := k.Alive(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	// The kubelet signed its certificate itself.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", path, resp.Status, data)
	}
	return data, nil
}

// run runs a command in a container of the pod, by the API that a liveness probe uses.
func (k *kubelet) run(ctx context.Context, p pod, name, command string) (string, error) {
	path := fmt.Sprintf("/run/%s/%s/%s?cmd=%s", p.Metadata.Namespace, p.Metadata.Name, name, url.QueryEscape(command))
	out, err := k.request(ctx, http.MethodPost, path)
	return strings.TrimSpace(string(out)), err
}
