package monitor

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// lateReader tells when the first answer is there, before its reader has it.
type lateReader struct {
	net.Conn
	between func()
}

func (c *lateReader) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if f := c.between; f != nil {
		c.between = nil
		f()
	}
	return n, err
}

// TestRestoreKeepsWhatIsNewer: what is kept of a container that was made after the list is
// not forgotten for not being on it. What was kept before, and is not on it, is.
func TestRestoreKeepsWhatIsNewer(t *testing.T) {
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n := newNode(t, rt)
		keeper := NewKeeper(n.client)
		defer keeper.Close()
		keep := func(id string) {
			keeper.mu.Lock()
			defer keeper.mu.Unlock()
			keeper.kept[id] = &duplicates{}
		}
		keep("gone")
		dial, first := n.client.dial, atomic.Bool{}
		n.client.dial = func(ctx context.Context) (net.Conn, error) {
			conn, err := dial(ctx)
			if err == nil && first.CompareAndSwap(false, true) { // to list
				conn = &lateReader{conn, func() { keep("new") }}
			}
			return conn, err
		}
		if err := keeper.Restore(t.Context()); err != nil {
			t.Fatal(err)
		}
		keeper.mu.Lock()
		defer keeper.mu.Unlock()
		if keeper.kept["new"] == nil || keeper.kept["gone"] != nil {
			t.Errorf("kept is %v", keeper.kept)
		}
	})
}
