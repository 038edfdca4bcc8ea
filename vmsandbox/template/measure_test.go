package template

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/flow"
)

// logf prints: the log of a benchmark is cut off.
func logf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// BenchmarkReal measures. Run it with -benchtime=1x; the figures are in its log.
func BenchmarkReal(b *testing.B) {
	if b.N > 1 {
		return
	}
	const n = 5
	o, _ := node(b, Options{Size: 0, Warm: warmth(b)})
	before := available(b)
	p, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if err := p.Start(b.Context(), nil); err != nil {
		b.Fatal(err)
	}
	img, err := p.acquire(b.Context())
	if err != nil || img == nil {
		b.Fatalf("no template: %v, %s", err, p.Status().Reason)
	}
	defer p.release(img)
	st, _ := img.memory.Stat()
	logf("template: %v, memory %d MiB of %d, state %v; MemAvailable fell by %d MiB", img.took,
		st.Sys().(*syscall.Stat_t).Blocks*512>>20, o.Shape.MemoryMiB, size(img.state), (before-available(b))>>20)
	var clone, warm, claim, cold []time.Duration
	cloning := &stepTimes{all: map[string][]time.Duration{}}
	cpu := map[string][]time.Duration{}
	var private []int
	before = available(b)
	var vms []*VM
	for range n {
		began := time.Now()
		vm, err := p.clone(flow.WithObserver(b.Context(), cloning), img, false, nil)
		if err != nil {
			b.Fatal(err)
		}
		clone = append(clone, time.Since(began))
		cpu["clone"] = append(cpu["clone"], processor(b, vm))
		began = time.Now()
		if err := p.live(b.Context(), vm); err != nil {
			b.Fatal(err)
		}
		if err := vm.Machine.Pause(b.Context()); err != nil {
			b.Fatal(err)
		}
		warm = append(warm, time.Since(began))
		cpu["clone and warm"] = append(cpu["clone and warm"], processor(b, vm))
		vm.paused = true
		private = append(private, rollup(b, vm.Machine.Pid(), "Private_Dirty:", "Private_Clean:"))
		vms = append(vms, vm)
	}
	last := vms[n-1].Machine.Pid()
	logf("parked: private %d KiB, RSS %d, PSS %d; MemAvailable fell by %d MiB for each of %d", private[n-1], rollup(b, last, "Rss:"), rollup(b, last, "Pss:"), (before-available(b))>>20/n, n)
	l, err := NewLife(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	steps := &stepTimes{all: map[string][]time.Duration{}}
	for _, vm := range vms {
		began, used := time.Now(), processor(b, vm)
		if err := p.wakeUp(b.Context(), vm); err != nil {
			b.Fatal(err)
		}
		claim = append(claim, time.Since(began))
		if err := l.Live(flow.WithObserver(b.Context(), steps), vm); err != nil {
			b.Fatal(err)
		}
		cpu["claim and live"] = append(cpu["claim and live"], processor(b, vm)-used)
	}
	logf("after another life: private %d KiB", rollup(b, last, "Private_Dirty:", "Private_Clean:"))
	for _, vm := range vms {
		p.remove(vm)
	}
	began := time.Now()
	vm, err := p.boot(b.Context(), false, nil)
	if err != nil {
		b.Fatal(err)
	}
	cold = append(cold, time.Since(began))
	p.remove(vm)
	report("processor time of QEMU, ", cpu)
	report("clone, ", cloning.all)
	report("in a claimed machine, ", steps.all)
	report("", map[string][]time.Duration{"clone to first answer and disk": clone, "warm and park": warm, "claim": claim, "cold boot": cold})
}

func report(prefix string, figures map[string][]time.Duration) {
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		all := figures[name]
		slices.Sort(all)
		logf("%s%s: min %v p50 %v max %v (%d)", prefix, name, all[0], all[len(all)/2], all[len(all)-1], len(all))
	}
}

// stepTimes collects what the steps of flows take.
type stepTimes struct{ all map[string][]time.Duration }

func (s *stepTimes) StepBegins(string, string) {}

func (s *stepTimes) StepEnds(_, step string, took time.Duration, _ error) {
	s.all[step] = append(s.all[step], took.Round(10*time.Microsecond))
}

// processor is the time that a machine's process has used.
func processor(t testing.TB, vm *VM) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.Machine.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func size(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d KiB", st.Size()>>10)
}

// rollup adds fields of /proc/PID/smaps_rollup, in KiB.
func rollup(t testing.TB, pid int, fields ...string) (sum int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return sumFields(string(b), fields...)
}

func available(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	return sumFields(string(b), "MemAvailable:") << 10
}

func sumFields(text string, fields ...string) (sum int) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) > 1 && slices.Contains(fields, words[0]) {
			n, _ := strconv.Atoi(words[1])
			sum += n
		}
	}
	return sum
}
