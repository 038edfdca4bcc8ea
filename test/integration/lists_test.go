package integration

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

// kubeletMessage is the largest message in bytes that the kubelet takes.
const kubeletMessage = 16 << 20

// TestLargeLists: what does not fit into one message is streamed in messages that the
// kubelet takes.
func TestLargeLists(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	const count = 80
	note := map[string]string{"note": strings.Repeat("n", 250<<10)}
	host := func() *cri.PodSandboxConfig {
		p := n.PodConfig()
		p.Annotations = note
		p.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		return p
	}
	configs := make([]*cri.PodSandboxConfig, count)
	for i := range configs {
		configs[i] = host()
	}
	for _, err := range AllOf(count, func(i int) error { return n.tryRun(configs[i]).err }) {
		if err != nil {
			t.Fatal(err)
		}
	}
	limit := grpc.MaxCallRecvMsgSize(kubeletMessage)
	stream, err := n.Runtime.StreamPodSandboxes(t.Context(), &cri.StreamPodSandboxesRequest{}, limit)
	if err != nil {
		t.Fatal(err)
	}
	seen, messages := map[string]bool{}, 0
	for {
		r, err := stream.Recv()
		if err != nil {
			if err.Error() != "EOF" {
				t.Errorf("the list of pods is broken off: %v", err)
			}
			break
		}
		messages++
		for _, p := range r.GetPodSandboxes() {
			seen[p.GetId()] = true
		}
	}
	if len(seen) != count || messages < 2 {
		t.Errorf("%d pods in %d messages, want %d", len(seen), messages, count)
	}
	_, err = n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{}, limit)
	if err == nil || !strings.Contains(fmt.Sprint(err), "larger than max") {
		t.Errorf("the unary list of 20 MB answers %v", err)
	}
	one, err := n.Runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: anyKey(seen)}}, limit)
	if err != nil || len(one.GetItems()) != 1 {
		t.Errorf("the connection is no good after that: %v", err)
	}
	for id := range seen { // the harness would list them
		if _, err := n.Runtime.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
}

func anyKey(m map[string]bool) string {
	for k := range m {
		return k
	}
	return ""
}
