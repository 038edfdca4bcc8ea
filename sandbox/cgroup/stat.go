package cgroup

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/cgroupstat"
)

// Stat fills s with the figures of the cgroup at path, those of its descendants
// included. errdefs.ErrNotFound: there is no such cgroup.
func (t *Tree) Stat(path string, s *runtime.Stat) error {
	if err := checkPath(path); err != nil {
		return err
	}
	files := func(controller, name string) string { return t.file(controller, path, name) }
	if t.Unified() {
		t.meter.V2(files, s)
	} else {
		t.meter.V1(files, s)
		t.pressureBeside(path, s)
	}
	if s.Memory.Usage == nil && s.Pids == nil && s.CPUNanos == nil && !t.Exists(path) {
		return fmt.Errorf("measure cgroup %s: %w", path, errdefs.ErrNotFound)
	}
	return nil
}

// pressureBeside reads what v1 has not from the v2 hierarchy of a hybrid node, if the
// processes are there, too: that depends on the OCI runtime. An empty cgroup's figures
// would be zeros that nobody measured.
func (t *Tree) pressureBeside(path string, s *runtime.Stat) {
	if t.beside == "" {
		return
	}
	dir := t.beside + path
	events, err := os.ReadFile(dir + "/cgroup.events")
	if err != nil || !strings.Contains(string(events), "populated 1") {
		return
	}
	s.CPUPressure = cgroupstat.Pressure(dir + "/cpu.pressure")
	s.MemoryPressure = cgroupstat.Pressure(dir + "/memory.pressure")
	s.IOPressure = cgroupstat.Pressure(dir + "/io.pressure")
}
