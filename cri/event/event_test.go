package event

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func publish(b *Bus, n int) {
	b.Publish(func() *v1.ContainerEventResponse {
		return &v1.ContainerEventResponse{ContainerId: fmt.Sprint(n)}
	})
}

func TestOrder(t *testing.T) {
	b := NewBus()
	one, two := b.Subscribe(), b.Subscribe()
	for n := range 100 {
		publish(b, n)
	}
	b.Close()
	for _, s := range []*Subscription{one, two} {
		n := 0
		for e := range s.Events() {
			if e.GetContainerId() != fmt.Sprint(n) {
				t.Fatalf("event %d is %v", n, e)
			}
			n++
		}
		if n != 100 || !errdefs.IsUnavailable(s.Err()) {
			t.Errorf("%d events, %v", n, s.Err())
		}
	}
	if _, ok := <-b.Subscribe().Events(); ok {
		t.Error("a closed bus has events")
	}
}

func TestSlowSubscriberIsDropped(t *testing.T) {
	b := NewBus()
	slow, gone := b.Subscribe(), b.Subscribe()
	gone.Cancel()
	gone.Cancel()
	for n := range backlog + 1 {
		publish(b, n)
	}
	n := 0
	for range slow.Events() {
		n++
	}
	if n != backlog || !errdefs.IsResourceExhausted(slow.Err()) {
		t.Errorf("%d events, %v", n, slow.Err())
	}
	b.Publish(func() *v1.ContainerEventResponse { t.Error("built for nobody"); return nil })
}
