package guest

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

const machineIDFile = "/etc/machine-id"

// machineID is empty before Identify.
func machineID() string {
	text, err := os.ReadFile(machineIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// minEntropy is how many bytes of it a clone needs.
const minEntropy = 32

// ioctls of /dev/random (linux/random.h).
const (
	rndAddEntropy = 0x40085203
	rndReseed     = 0x5207
)

// Identify implements agent.Guest.
func (g *Guest) Identify(_ context.Context, id agent.Identity) error {
	arrived := time.Now()
	switch {
	case len(id.Entropy) < minEntropy || len(id.Entropy) > 4096:
		return fmt.Errorf("identify: %d bytes of entropy, at least %d are needed: %w", len(id.Entropy), minEntropy, errdefs.ErrInvalidArgument)
	case len(id.MachineID) != 32 || strings.Trim(id.MachineID, "0123456789abcdef") != "":
		return fmt.Errorf("identify: machine id %q: %w", id.MachineID, errdefs.ErrInvalidArgument)
	case len(id.Hostname) > 64:
		return fmt.Errorf("identify: host name of %d characters: %w", len(id.Hostname), errdefs.ErrInvalidArgument)
	}
	// Entropy first: whatever draws random bytes from now on is this clone's own.
	if err := addEntropy(id.Entropy); err != nil {
		return err
	}
	// That took a while, the first time that a clone does it.
	now := unix.NsecToTimespec(id.UnixNanos + time.Since(arrived).Nanoseconds())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("set clock to %s: %w: %w", time.Unix(0, id.UnixNanos).UTC(), errdefs.ErrInternal, err)
	}
	if id.Hostname != "" {
		if err := unix.Sethostname([]byte(id.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w: %w", errdefs.ErrInternal, err)
		}
	}
	if err := os.WriteFile(machineIDFile, []byte(id.MachineID+"\n"), 0o444); err != nil {
		return fmt.Errorf("write machine id: %w: %w", errdefs.ErrInternal, err)
	}
	return nil
}

// Step implements agent.Guest.
func (g *Guest) Step(_ context.Context, by time.Duration) (int64, error) {
	if by != 0 {
		// Seconds that may be negative, and nanoseconds that may not (clock_adjtime(2)).
		at := unix.NsecToTimespec(by.Nanoseconds())
		change := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Sec: at.Sec, Usec: at.Nsec}}
		if _, err := unix.ClockAdjtime(unix.CLOCK_REALTIME, &change); err != nil {
			return 0, fmt.Errorf("step clock by %s: %w: %w", by, errdefs.ErrInternal, err)
		}
	}
	return time.Now().UnixNano(), nil
}

// addEntropy credits the kernel's generator with secret bytes and has it use them at once.
func addEntropy(secret []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("add entropy: %w: %w", errdefs.ErrInternal, err)
	}
	defer f.Close()
	// struct rand_pool_info: bits credited, bytes, and the bytes.
	pool := binary.NativeEndian.AppendUint32(nil, uint32(len(secret)*8))
	pool = binary.NativeEndian.AppendUint32(pool, uint32(len(secret)))
	pool = append(pool, secret...)
	if err := ioctl(f, rndAddEntropy, pool); err != nil {
		return fmt.Errorf("add entropy: %w: %w", errdefs.ErrInternal, err)
	}
	if err := ioctl(f, rndReseed, nil); err != nil {
		return fmt.Errorf("reseed random numbers: %w: %w", errdefs.ErrInternal, err)
	}
	return nil
}
