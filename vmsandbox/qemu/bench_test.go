package qemu

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/monitor/monitortest"
	"github.com/cricket-cri/cricket/vmsandbox/vmm"
)

// BenchmarkMachine measures the life of clones and what filling a slot costs, with QEMU
// confined and not. The decision page has the figures.
func BenchmarkMachine(b *testing.B) {
	kernel, initrd := image(b)
	launcher, mon := monitortest.Run(b)
	free, err := New(Options{Program: program, State: shortDir(b), Monitor: mon})
	if err != nil {
		b.Fatal(err)
	}
	confined, err := New(Options{Program: program, State: shortDir(b), Monitor: mon, Confine: &Confine{
		Launcher: []string{launcher, "confine"}, FirstUser: DefaultFirstUser, Users: 8, Files: DefaultFiles(program),
	}})
	if err != nil {
		b.Fatal(err)
	}
	removeAtEnd(b, free)
	removeAtEnd(b, confined)
	memory, device := template(b, confined, shape(kernel, initrd))
	layers := disks(b, 6)
	for name, h := range map[string]vmm.Hypervisor{"free": free, "confined": confined} {
		b.Run(name, func(b *testing.B) {
			times := map[string][]time.Duration{}
			for i := range b.N {
				live(b, h, fmt.Sprintf("bench-%d", i), vmm.Config{Shape: shape(kernel, initrd), State: device, Memory: vmm.Memory{File: memory}, Volumes: shortDir(b)}, layers, times)
			}
			b.ReportMetric(0, "ns/op") // the sum says nothing
			for what, all := range times {
				slices.Sort(all)
				b.ReportMetric(float64(all[0].Microseconds())/1000, what+"-min-ms")
				b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-p50-ms")
			}
		})
	}
}

func live(b *testing.B, h vmm.Hypervisor, id string, c vmm.Config, layers []string, times map[string][]time.Duration) {
	b.Helper()
	ctx := background(b)
	began := time.Now()
	lap := func(what string) {
		times[what] = append(times[what], time.Since(began))
		began = time.Now()
	}
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	c.ID = id
	m, err := h.Start(ctx, c)
	must(err)
	lap("start")
	must(m.Resume(ctx))
	g := talk(b, m, vmm.PortDaemon)
	lap("answer")
	must(m.SetDisk(ctx, "ro0", vmm.Disk{Files: layers[:1], ReadOnly: true}))
	lap("disk")
	must(m.SetDisk(ctx, "ro1", vmm.Disk{Files: layers, ReadOnly: true}))
	lap("disk-of-6")
	must(m.ClearDisk(ctx, "ro1"))
	lap("clear")
	must(m.Pause(ctx))
	lap("pause")
	must(m.Resume(ctx))
	g.try("ping")
	lap("resume")
	must(m.Close())
	again, err := h.Attach(ctx, id)
	must(err)
	lap("attach")
	must(again.Close())
	began = time.Now()
	must(h.Remove(ctx, id))
	lap("remove")
}
