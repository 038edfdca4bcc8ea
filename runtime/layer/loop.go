package layer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopAttempts bounds the race for a free loop device with other programs.
const loopAttempts = 64

// mountLoops mounts an image through loop devices, which vanish with the mount. They
// serve kernels before 6.12 and blobs on file systems that erofs does not read files
// of (overlayfs).
func mountLoops(files []string, dir string) error {
	var devices []string
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("open blob: %w", err)
		}
		dev, err := attachLoop(f)
		f.Close()
		if err != nil {
			return err
		}
		// Once mounted the device has a user; closed unmounted it is detached.
		defer dev.Close()
		devices = append(devices, dev.Name())
	}
	return mountOn(devices, dir)
}

func attachLoop(f *os.File) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open loop control (try: modprobe loop): %w", err)
	}
	defer ctl.Close()
	for range loopAttempts {
		num, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find free loop device: %w", err)
		}
		dev, err := openLoop(num)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{
			Fd:   uint32(f.Fd()),
			Size: 4096, // the block size: that of the image
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure loop device: %w", err)
		}
	}
	return nil, fmt.Errorf("configure loop device: %w", unix.EBUSY)
}

// openLoop opens /dev/loopN, and makes the node where no devtmpfs does.
func openLoop(num int) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", num)
	dev, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		const loopMajor = 7
		err = unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(num))))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make loop device node: %w", err)
		}
		dev, err = os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open loop device: %w", err)
	}
	return dev, nil
}
