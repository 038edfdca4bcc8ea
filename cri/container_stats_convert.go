package cri

import (
	"time"

	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/stat"
	"github.com/cricket-cri/cricket/runtime"
)

func figure(v *uint64) *v1.UInt64Value {
	if v == nil {
		return nil
	}
	return &v1.UInt64Value{Value: *v}
}

func cpuUsage(s *stat.Sample) *v1.CpuUsage {
	return &v1.CpuUsage{
		Timestamp:            nanos(s.At),
		UsageCoreNanoSeconds: figure(s.CPUNanos),
		UsageNanoCores:       figure(s.NanoCores),
		Psi:                  psiStats(s.CPUPressure),
	}
}

func memoryUsage(s *stat.Sample) *v1.MemoryUsage {
	m := s.Memory
	return &v1.MemoryUsage{
		Timestamp:       nanos(s.At),
		WorkingSetBytes: figure(m.WorkingSet),
		AvailableBytes:  figure(m.Available),
		UsageBytes:      figure(m.Usage),
		RssBytes:        figure(m.RSS),
		PageFaults:      figure(m.PageFaults),
		MajorPageFaults: figure(m.MajorPageFaults),
		Psi:             psiStats(s.MemoryPressure),
	}
}

// swapUsage is nil where the kernel does not account for swap.
func swapUsage(s *stat.Sample) *v1.SwapUsage {
	if s.Swap.Usage == nil && s.Swap.Available == nil {
		return nil
	}
	return &v1.SwapUsage{
		Timestamp:          nanos(s.At),
		SwapUsageBytes:     figure(s.Swap.Usage),
		SwapAvailableBytes: figure(s.Swap.Available),
	}
}

// ioUsage is nil without pressure figures: there is nothing else in it.
func ioUsage(s *stat.Sample) *v1.IoUsage {
	if s.IOPressure == nil {
		return nil
	}
	return &v1.IoUsage{Timestamp: nanos(s.At), Psi: psiStats(s.IOPressure)}
}

func psiStats(p *runtime.Pressure) *v1.PsiStats {
	if p == nil {
		return nil
	}
	return &v1.PsiStats{Some: psiData(p.Some), Full: psiData(p.Full)}
}

// psiData turns the kernel's microseconds into the CRI's nanoseconds.
func psiData(l runtime.PressureLine) *v1.PsiData {
	return &v1.PsiData{
		Total:  l.Total * uint64(time.Microsecond),
		Avg10:  l.Avg10,
		Avg60:  l.Avg60,
		Avg300: l.Avg300,
	}
}
