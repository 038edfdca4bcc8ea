package monitor

import (
	"bytes"
	"testing"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// What is executed in a container can be killed for want of memory like the container, and
// not like the monitor.
func TestExecOOMScore(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		req := n.run([]string{"sleep", "3600000"}, nil)
		score := 789
		p := payload("show", "/proc/self/oom_score_adj")
		p.OOMScoreAdj = &score
		var out bytes.Buffer
		if _, err := n.client.Exec(t.Context(), req.ID, ExecRequest{Process: p}, runtime.Streams{Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		if out.String() != "789\n" {
			t.Errorf("the score is %q, want 789", &out)
		}
	})
}
