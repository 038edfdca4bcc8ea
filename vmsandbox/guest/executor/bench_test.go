package executor

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/cricket-cri/cricket/runtime/spec"
)

// BenchmarkLife is a container's life up to the execution of its program, and the end,
// with everything that an ordinary one has.
func BenchmarkLife(b *testing.B) {
	x := newBox(b)
	var err error
	x.config.Seccomp, err = spec.DefaultSeccomp(spec.DefaultCapabilities())
	must(b, err)
	x.config.MaskedPaths = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	x.config.ReadonlyPaths = []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	x.place.Namespaces = nil
	s, err := spec.Build(x.config, x.place)
	must(b, err)
	text, err := json.Marshal(s)
	must(b, err)
	must(b, os.WriteFile(filepath.Join(x.req.Bundle, "config.json"), text, 0o644))
	for b.Loop() {
		_, err := node.client.Create(b.Context(), x.req)
		must(b, err)
		_, err = node.client.Start(b.Context(), x.id)
		must(b, err)
		b.StopTimer()
		must(b, node.client.Delete(b.Context(), x.id))
		b.StartTimer()
	}
}

// BenchmarkExec is a process from its request to its end.
func BenchmarkExec(b *testing.B) {
	x := newBox(b, "sleep")
	x.start()
	for b.Loop() {
		_, _, err := x.exec(nil, "exit", "0")
		must(b, err)
	}
}
