package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// New makes one network namespace, brings its loopback up and pins it at path, which must
// not exist. If it fails it leaves nothing pinned.
func New(path string) error {
	err := onThread([]specs.LinuxNamespaceType{specs.NetworkNamespace}, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
		if err != nil {
			return fmt.Errorf("make pin: %w", err)
		}
		_ = f.Close()
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return errors.Join(fmt.Errorf("pin network namespace: %w", err), os.Remove(path))
		}
		return nil
	})
	return err
}

// Remove unpins what New pinned at path. It is idempotent.
func Remove(path string) error { return unpin(path) }
