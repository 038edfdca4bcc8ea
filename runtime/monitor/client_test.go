package monitor

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCallOfADyingMonitor: a call that a monitor hung up on unread is made again, one
// that it had read is not.
func TestCallOfADyingMonitor(t *testing.T) {
	for name, tt := range map[string]struct {
		unread, read int // connections that are closed before or after the call is read
		want         error
	}{
		"one died":         {unread: 1},
		"two died":         {unread: dyingMonitors - 1},
		"all died":         {unread: dyingMonitors, want: unix.ECONNRESET},
		"died at its work": {read: 1, want: io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.sock")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for n := 0; ; n++ {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					first := make([]byte, 1)
					_, _ = conn.Read(first) // the rest is on its way, and unread
					if n >= tt.unread {
						_, _, _ = readFrame(io.MultiReader(&oneByte{b: first[0]}, conn), nil)
					}
					if n >= tt.unread+tt.read {
						respond(conn, Info{Pid: 7}, nil)
					}
					conn.Close()
				}
			}()
			info, err := NewClient(DialUnix(path)).Hello(t.Context())
			if !errors.Is(err, tt.want) || err == nil && info.Pid != 7 {
				t.Errorf("got %v, %v", info, err)
			}
		})
	}
}
