package telemetry

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/hack/tools"
	"github.com/cricket-cri/cricket/test/integration"
)

func TestMain(m *testing.M) {
	integration.MainWithTools(m, func(module string) []tools.Tool {
		return append(tools.Prometheus(), tools.Collector(module))
	})
}

// freePort is an address of this machine that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// write makes a file of a test.
func write(t *testing.T, name, format string, args ...any) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// traced is a daemon's configuration that sends traces, of itself only those that clients ask
// for or all.
func traced(t *testing.T, c *collector, perMillion int) []string {
	t.Helper()
	return []string{"--config", write(t, "config.toml",
		"[tracing]\nendpoint = %q\ninsecure = %t\nsampling_rate_per_million = %d\n", c.address, c.authority == nil, perMillion)}
}
