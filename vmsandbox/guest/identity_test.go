package guest_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
	"github.com/cricket-cri/cricket/vmsandbox/guest/guesttest"
)

func testIdentify(t *testing.T, m *guesttest.Machine) {
	id := agent.Identity{
		UnixNanos: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC).UnixNano(), Entropy: bytes.Repeat([]byte{7}, 64),
		MachineID: strings.Repeat("0a", 16), Hostname: "pod-1",
	}
	if err := m.Guest.Identify(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func(*agent.Identity){
		"entropy": func(id *agent.Identity) { id.Entropy = id.Entropy[:31] },
		"machine": func(id *agent.Identity) { id.MachineID = "../../x" },
	} {
		other := id
		bad(&other)
		if err := m.Guest.Identify(t.Context(), other); !errdefs.IsInvalidArgument(err) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
	was, err := m.Guest.Step(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []time.Duration{-time.Hour - time.Millisecond, time.Hour + time.Millisecond} {
		now, err := m.Guest.Step(t.Context(), by)
		if err != nil {
			t.Fatal(err)
		}
		if off := time.Duration(now-was) - by; off < 0 || off > time.Minute {
			t.Errorf("a step by %s, and the clock has moved by %s", by, time.Duration(now-was))
		}
		was = now
	}
	if _, err := m.Guest.Step(t.Context(), math.MinInt64); !errdefs.IsInternal(err) {
		t.Errorf("a step by three hundred years: %v", err)
	}
}
