package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// PrivateState makes what programs keep on a machine, /var/lib and /var/log, the node's
// own.
func PrivateState() error {
	for _, target := range []string{"/var/lib", "/var/log"} {
		source := filepath.Join(Dir(), strings.TrimPrefix(target, "/"))
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	return nil
}
