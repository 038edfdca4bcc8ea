package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// world is a few pods and containers in different states.
type world struct {
	pods, containers map[string]string // name to id
}

func (n *Node) world() world {
	n.t.Helper()
	w := world{map[string]string{}, map[string]string{}}
	for _, name := range []string{"a", "b", "gone"} {
		p := n.PodConfig()
		p.Labels = map[string]string{"pod": name, "all": "pods", "empty": ""}
		w.pods[name] = n.RunPod(p)
		for _, state := range []string{"created", "running", "exited"} {
			c := n.ContainerConfig("sleep", "3600")
			if state == "exited" {
				c.Command = []string{"true"}
			}
			c.Labels = map[string]string{"pod": name, "state": state}
			id := n.Create(w.pods[name], p, c)
			w.containers[name+state] = id
			if state != "created" {
				n.StartContainer(id)
			}
			if state == "exited" {
				n.Exited(id, settle)
			}
		}
	}
	if _, err := n.Runtime.StopPodSandbox(n.t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: w.pods["gone"]}); err != nil {
		n.t.Fatal(err)
	}
	return w
}

// names are the keys of ids, sorted.
func names(all map[string]string, ids []string) string {
	var found []string
	for name, id := range all {
		if slices.Contains(ids, id) {
			found = append(found, name)
		}
	}
	if len(found) != len(ids) {
		found = append(found, fmt.Sprintf("%d more", len(ids)-len(found)))
	}
	return strings.Join(slices.Sorted(slices.Values(found)), " ")
}

func TestFilters(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	w := n.world()
	ready, notReady := cri.PodSandboxState_SANDBOX_READY, cri.PodSandboxState_SANDBOX_NOTREADY
	all := slices.Collect(maps.Keys(w.containers))
	everyContainer := strings.Join(slices.Sorted(slices.Values(all)), " ")
	for name, c := range map[string]struct {
		filter *cri.PodSandboxFilter
		want   string
	}{
		"none":         {nil, "a b gone"},
		"empty":        {&cri.PodSandboxFilter{}, "a b gone"},
		"id":           {&cri.PodSandboxFilter{Id: w.pods["a"]}, "a"},
		"short id":     {&cri.PodSandboxFilter{Id: w.pods["b"][:13]}, "b"},
		"wrong id":     {&cri.PodSandboxFilter{Id: "nothing"}, ""},
		"ready":        {&cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: ready}}, "a b"},
		"not ready":    {&cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: notReady}}, "gone"},
		"label":        {&cri.PodSandboxFilter{LabelSelector: map[string]string{"pod": "a"}}, "a"},
		"labels":       {&cri.PodSandboxFilter{LabelSelector: map[string]string{"pod": "a", "all": "pods"}}, "a"},
		"one wrong":    {&cri.PodSandboxFilter{LabelSelector: map[string]string{"pod": "a", "all": "x"}}, ""},
		"empty label":  {&cri.PodSandboxFilter{LabelSelector: map[string]string{"empty": ""}}, "a b gone"},
		"absent label": {&cri.PodSandboxFilter{LabelSelector: map[string]string{"absent": ""}}, ""},
		"everything": {&cri.PodSandboxFilter{Id: w.pods["gone"], LabelSelector: map[string]string{"all": "pods"},
			State: &cri.PodSandboxStateValue{State: notReady}}, "gone"},
		"contradiction": {&cri.PodSandboxFilter{Id: w.pods["gone"], State: &cri.PodSandboxStateValue{State: ready}}, ""},
	} {
		r, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: c.filter})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var ids []string
		for _, p := range r.GetItems() {
			ids = append(ids, p.GetId())
		}
		if got := names(w.pods, ids); got != c.want {
			t.Errorf("pods by %s: %q, want %q", name, got, c.want)
		}
		streamed := collect(t, n.Runtime.StreamPodSandboxes, &cri.StreamPodSandboxesRequest{Filter: c.filter}, (*cri.StreamPodSandboxesResponse).GetPodSandboxes)
		equalLists(t, "pods by "+name, r.GetItems(), streamed)
	}
	state := func(s cri.ContainerState) *cri.ContainerStateValue { return &cri.ContainerStateValue{State: s} }
	for name, c := range map[string]struct {
		filter *cri.ContainerFilter
		want   string
	}{
		"none":     {nil, everyContainer},
		"id":       {&cri.ContainerFilter{Id: w.containers["arunning"]}, "arunning"},
		"short id": {&cri.ContainerFilter{Id: w.containers["arunning"][:13]}, "arunning"},
		"wrong id": {&cri.ContainerFilter{Id: "nothing"}, ""},
		"pod":      {&cri.ContainerFilter{PodSandboxId: w.pods["a"]}, "acreated aexited arunning"},
		"created":  {&cri.ContainerFilter{PodSandboxId: w.pods["a"], State: state(cri.ContainerState_CONTAINER_CREATED)}, "acreated"},
		"running":  {&cri.ContainerFilter{State: state(cri.ContainerState_CONTAINER_RUNNING)}, "arunning brunning"},
		"exited":   {&cri.ContainerFilter{PodSandboxId: w.pods["b"], State: state(cri.ContainerState_CONTAINER_EXITED)}, "bexited"},
		"label":    {&cri.ContainerFilter{LabelSelector: map[string]string{"state": "exited"}}, "aexited bexited goneexited"},
		"mixed": {&cri.ContainerFilter{PodSandboxId: w.pods["b"], LabelSelector: map[string]string{"state": "running"},
			State: state(cri.ContainerState_CONTAINER_RUNNING)}, "brunning"},
	} {
		r, err := n.Runtime.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: c.filter})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var ids []string
		for _, c := range r.GetContainers() {
			ids = append(ids, c.GetId())
		}
		if got := names(w.containers, ids); got != c.want {
			t.Errorf("containers by %s: %q, want %q", name, got, c.want)
		}
		streamed := collect(t, n.Runtime.StreamContainers, &cri.StreamContainersRequest{Filter: c.filter}, (*cri.StreamContainersResponse).GetContainers)
		equalLists(t, "containers by "+name, r.GetContainers(), streamed)
	}
	statsFilters(t, n, w)
	imageFilters(t, n)
}

// statsAre compares whose stats are listed, and how many are streamed, with the names that are
// wanted.
func statsAre[A interface{ GetId() string }, S interface{ GetAttributes() A }](t *testing.T, what string, known map[string]string, want string, listed, streamed []S) {
	t.Helper()
	var ids []string
	for _, s := range listed {
		ids = append(ids, s.GetAttributes().GetId())
	}
	if got := names(known, ids); got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
	if len(streamed) != len(listed) {
		t.Errorf("%s: %d are streamed, %d listed", what, len(streamed), len(listed))
	}
}

func statsFilters(t *testing.T, n *Node, w world) {
	for name, c := range map[string]struct {
		filter *cri.ContainerStatsFilter
		want   string
	}{
		"id":    {&cri.ContainerStatsFilter{Id: w.containers["arunning"]}, "arunning"},
		"pod":   {&cri.ContainerStatsFilter{PodSandboxId: w.pods["b"], LabelSelector: map[string]string{"state": "running"}}, "brunning"},
		"label": {&cri.ContainerStatsFilter{LabelSelector: map[string]string{"pod": "a", "state": "running"}}, "arunning"},
		"wrong": {&cri.ContainerStatsFilter{Id: "nothing"}, ""},
	} {
		r, err := n.Runtime.ListContainerStats(t.Context(), &cri.ListContainerStatsRequest{Filter: c.filter})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		streamed := collect(t, n.Runtime.StreamContainerStats, &cri.StreamContainerStatsRequest{Filter: c.filter}, (*cri.StreamContainerStatsResponse).GetContainerStats)
		statsAre(t, "container stats by "+name, w.containers, c.want, r.GetStats(), streamed)
	}
	for name, c := range map[string]struct {
		filter *cri.PodSandboxStatsFilter
		want   string
	}{
		"id":    {&cri.PodSandboxStatsFilter{Id: w.pods["a"]}, "a"},
		"label": {&cri.PodSandboxStatsFilter{LabelSelector: map[string]string{"pod": "b"}}, "b"},
		"wrong": {&cri.PodSandboxStatsFilter{Id: "nothing"}, ""},
	} {
		r, err := n.Runtime.ListPodSandboxStats(t.Context(), &cri.ListPodSandboxStatsRequest{Filter: c.filter})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		streamed := collect(t, n.Runtime.StreamPodSandboxStats, &cri.StreamPodSandboxStatsRequest{Filter: c.filter}, (*cri.StreamPodSandboxStatsResponse).GetPodSandboxStats)
		statsAre(t, "pod stats by "+name, w.pods, c.want, r.GetStats(), streamed)
	}
	metrics, err := n.Runtime.ListPodSandboxMetrics(t.Context(), &cri.ListPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	streamed := collect(t, n.Runtime.StreamPodSandboxMetrics, &cri.StreamPodSandboxMetricsRequest{}, (*cri.StreamPodSandboxMetricsResponse).GetPodSandboxMetrics)
	if len(streamed) != len(metrics.GetPodMetrics()) || len(streamed) < 2 {
		t.Errorf("%d pod metrics are streamed, %d listed", len(streamed), len(metrics.GetPodMetrics()))
	}
}

func imageFilters(t *testing.T, n *Node) {
	id := n.Pull(images.Pause)
	for ref, want := range map[string]int{"": 2, images.Pause: 1, id: 1, strings.TrimPrefix(id, "sha256:")[:12]: 1, "registry.k8s.io/none:1": 0} {
		f := &cri.ImageFilter{Image: &cri.ImageSpec{Image: ref}}
		r, err := n.Images.ListImages(t.Context(), &cri.ListImagesRequest{Filter: f})
		if err != nil || len(r.GetImages()) != want {
			t.Errorf("images by %q: %v, %v", ref, r.GetImages(), err)
		}
		streamed := collect(t, n.Images.StreamImages, &cri.StreamImagesRequest{Filter: f}, (*cri.StreamImagesResponse).GetImages)
		equalLists(t, "images by "+ref, r.GetImages(), streamed)
	}
}

// collect reads a streaming list to its end.
func collect[Q, R, T any](t *testing.T, call func(context.Context, Q, ...grpc.CallOption) (grpc.ServerStreamingClient[R], error), req Q, items func(*R) []T) []T {
	t.Helper()
	stream, err := call(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var all []T
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Errorf("streaming list: %v", err)
			return all
		}
		all = append(all, items(r)...)
	}
}

// equalLists compares lists whose order means nothing.
func equalLists[T interface {
	proto.Message
	GetId() string
}](t *testing.T, what string, a, b []T) {
	t.Helper()
	if len(a) != len(b) {
		t.Errorf("%s: %d are listed, %d streamed", what, len(a), len(b))
		return
	}
	byID := map[string]T{}
	for _, m := range a {
		byID[m.GetId()] = m
	}
	for _, m := range b {
		if !proto.Equal(byID[m.GetId()], m) {
			t.Errorf("%s: listed as %v, streamed as %v", what, byID[m.GetId()], m)
		}
	}
}
