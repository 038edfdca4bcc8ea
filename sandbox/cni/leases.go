package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// leaseDir is where the host-local plugin keeps its leases unless told otherwise.
	leaseDir = "/var/lib/cni/networks"
	// lockTime bounds how long its lock is waited for: it holds it for milliseconds, unless
	// it hangs, and the daemon's start is not to hang with it.
	lockTime, lockStep = 2 * time.Second, 20 * time.Millisecond
)

// DropTornLeases removes leases of the host-local plugin that a power failure has
// emptied, and returns how many. The plugin does not sync what it writes: after a
// failure the file of an address can be there without the name of the container that
// has it, and then nothing would ever release the address. No configuration, or another
// plugin for addresses, is not an error; errdefs.ErrUnavailable is one if the plugin does
// not give its lock back.
func (n *Network) DropTornLeases() (dropped int, err error) {
	list, err := n.load()
	if err != nil {
		return 0, nil
	}
	var errs []error
	for _, p := range list.Plugins {
		var conf struct {
			IPAM struct{ Type, DataDir string }
		}
		if json.Unmarshal(p.Bytes, &conf) != nil || conf.IPAM.Type != "host-local" {
			continue
		}
		dir := conf.IPAM.DataDir
		if dir == "" {
			dir = leaseDir
		}
		here, err := dropTorn(filepath.Join(dir, list.Name))
		dropped += here
		errs = append(errs, err)
	}
	return dropped, errors.Join(errs...)
}

// dropTorn looks at the leases of one network under the plugin's own lock, so that a
// lease that is just being written is not taken for a torn one.
func dropTorn(dir string) (dropped int, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list leases: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, fmt.Errorf("lock leases: %w", err)
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return 0, fmt.Errorf("lock leases: %w", err)
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue // not a lease
		}
		path := filepath.Join(dir, e.Name())
		content, err := os.ReadFile(path)
		if err != nil || len(bytes.Trim(content, "\x00")) > 0 {
			continue // released meanwhile, or whole
		}
		if err := os.Remove(path); err != nil {
			return dropped, fmt.Errorf("remove torn lease: %w", err)
		}
		dropped++
	}
	return dropped, nil
}

func flock(lock *os.File) error {
	for began := time.Now(); ; time.Sleep(lockStep) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return err
		case time.Since(began) > lockTime:
			return fmt.Errorf("the plugin holds it for more than %s: %w", lockTime, errdefs.ErrUnavailable)
		}
	}
}
