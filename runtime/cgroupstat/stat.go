package cgroupstat

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cricket-cri/cricket/runtime"
)

// noLimit is where the kernel's way to say "no limit" begins on v1.
const noLimit = 1 << 62

// Files finds the file of a controller in the cgroup that is measured, "" if that
// controller is not there. On v2 the controller is "".
type Files func(controller, name string) string

// Meter measures cgroups. Its methods are safe for concurrent use; figures include those
// of cgroups below.
type Meter struct {
	buffers sync.Pool
	// sizes are those of huge pages, in the words of cgroups.
	sizes []string
}

// New makes a meter for this kernel.
func New() *Meter {
	m := &Meter{buffers: sync.Pool{New: func() any { return new(buffer) }}}
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return m // a kernel without them
	}
	for _, e := range entries {
		if kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64); err == nil {
			m.sizes = append(m.sizes, pageSize(kib))
		}
	}
	return m
}

// pageSize is how the kernel's cgroups name a size: 64KB, 2MB, 1GB.
func pageSize(kib uint64) string {
	units := []string{"KB", "MB", "GB"}
	for kib >= 1024 && len(units) > 1 {
		kib, units = kib/1024, units[1:]
	}
	return strconv.FormatUint(kib, 10) + units[0]
}

// V1 fills s with the figures of a cgroup of version 1.
func (m *Meter) V1(files Files, s *runtime.Stat) { m.measure(files, s, m.v1) }

// V2 fills s with the figures of a cgroup of version 2.
func (m *Meter) V2(files Files, s *runtime.Stat) { m.measure(files, s, m.v2) }

func (m *Meter) measure(files Files, s *runtime.Stat, version func(*reader, *runtime.Stat)) {
	r := &reader{files: files, block: make([]uint64, 0, blockSize), buf: m.buffers.Get().(*buffer)}
	defer m.buffers.Put(r.buf)
	*s = runtime.Stat{At: time.Now()}
	version(r, s)
	if s.Memory.Usage != nil && s.Memory.InactiveFile != nil {
		s.Memory.WorkingSet = r.figure(less(*s.Memory.Usage, *s.Memory.InactiveFile))
	} else {
		s.Memory.WorkingSet = s.Memory.Usage
	}
	if s.Memory.Limit != nil && s.Memory.WorkingSet != nil {
		s.Memory.Available = r.figure(less(*s.Memory.Limit, *s.Memory.WorkingSet))
	}
}

// less is a-b, and 0 where figures that were read one after the other do not fit.
func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}
