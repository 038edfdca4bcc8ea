package guest

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/vmsandbox/agent"
)

// mappedFiles finds the persistent memory devices behind PCI buses. The first has the file
// system's metadata, the others are told by the option device.
func mappedFiles(buses []int) (source, error) {
	if err := loadMapping(); err != nil {
		return source{}, err
	}
	var names []string
	for _, bus := range buses {
		found, err := filepath.Glob(fmt.Sprintf("/sys/bus/pci/devices/0000:%02x:00.0/virtio*/ndbus*/region*/namespace*/block/*", bus))
		if err != nil {
			return source{}, err
		}
		if len(found) != 1 {
			return source{}, unix.ENOENT // plugging in takes its time
		}
		names = append(names, "/dev/"+filepath.Base(found[0]))
	}
	s := source{device: names[0], data: "dax=always"}
	for _, name := range names[1:] {
		s.data += ",device=" + name
	}
	return s, nil
}

// loadMapping loads the modules for mapped files, where they are not built in.
func loadMapping() error {
	if _, err := os.Stat("/sys/bus/virtio/drivers/virtio_pmem"); err == nil {
		return nil
	}
	m := modules{dir: modulesDir, load: loadModule}
	for _, name := range []string{"nd_pmem", "virtio_pmem"} {
		if err := m.probe(name); err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrNotImplemented, err)
		}
	}
	return nil
}

// loadAsked loads modules that the kernel's command line asks for: in a template, so that
// no clone has to.
func loadAsked(log *slog.Logger) {
	line, err := os.ReadFile("/proc/cmdline")
	if err == nil && slices.Contains(strings.Fields(string(line)), agent.WordMapped) {
		err = loadMapping()
	}
	if err != nil {
		log.Error("load modules for mapped files", slog.Any("error", err))
	}
}
