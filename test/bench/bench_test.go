package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cmd/cribench/report"
	"github.com/cricket-cri/cricket/cri/trace/otlptest"
	"github.com/cricket-cri/cricket/test/harness"
)

// What is expected can be read, and is of endpoints that there are.
func TestExpectations(t *testing.T) {
	for name, endpoints := range map[string][]string{
		"gate.txt":    {kernelPods, peer},
		"targets.txt": {kernelPods, vmPods, peer, peerCrun, peerCrio},
	} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		all, err := report.ReadExpectations(f)
		if err != nil || len(all) < 5 {
			t.Errorf("%s: %d expectations (%v)", name, len(all), err)
		}
		for _, e := range all {
			for _, endpoint := range append(slices.Clone(e.Of), e.Endpoint) {
				if !slices.Contains(endpoints, endpoint) {
					t.Errorf("%s: %s: no endpoint is called %s", name, e.Text, endpoint)
				}
			}
		}
	}
}

func TestFull(t *testing.T) {
	for message, want := range map[string]bool{
		"works with TCG; 2 of 2 machines wait": true, "works; with; 1 of 2 machines wait": false, "2 of 2": false,
	} {
		if full(message) != want {
			t.Errorf("%q: full is %v", message, !want)
		}
	}
}

// The script kills the daemon and starts it again, each time it is run.
func TestRestartScript(t *testing.T) {
	paths := harness.Paths{Dir: t.TempDir()}
	paths.Log = filepath.Join(paths.Dir, "it's the log")
	d := harness.NewDaemon(paths, func(harness.Paths) (*exec.Cmd, error) {
		return exec.Command("sh", "-c", "echo $0 $1 started; exec sleep 1000", "it's", "a daemon"), nil
	})
	if err := d.Process.Start(); err != nil {
		t.Fatal(err)
	}
	script, err := restartScript(d)
	if err != nil {
		t.Fatal(err)
	}
	running := d.Pid()
	t.Cleanup(func() { unix.Kill(running, unix.SIGKILL) })
	for restarts := range 2 {
		waitForStarts(t, paths.Log, restarts+1) // or it may be killed before it says so
		if out, err := exec.Command(script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := unix.Kill(running, 0); err == nil {
			t.Errorf("process %d still runs after restart %d", running, restarts)
		}
		data, err := os.ReadFile(filepath.Join(paths.Dir, "pid"))
		if err != nil {
			t.Fatal(err)
		}
		if running, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
			t.Fatal(err)
		}
	}
	waitForStarts(t, paths.Log, 3)
}

func waitForStarts(t *testing.T, file string, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		log, err := os.ReadFile(file)
		if err == nil && strings.Count(string(log), "it's a daemon started\n") == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemons said %q (%v), want %d starts", log, err, n)
		}
	}
}

// Steps stand below what they are part of, as they begin, with what is rare left out.
func TestWriteStages(t *testing.T) {
	const ms = 1_000_000
	var spans []otlptest.Span
	for i := range uint64(4) {
		trace, at := strconv.FormatUint(i, 10), i*1000*ms
		spans = append(spans,
			otlptest.Span{Trace: trace, ID: "a", Name: "Run", Start: at, End: at + (10+i)*ms},
			otlptest.Span{Trace: trace, ID: "c", Parent: "a", Name: "second", Start: at + 4*ms, End: at + 9*ms},
			otlptest.Span{Trace: trace, ID: "b", Parent: "a", Name: "first", Start: at + 1*ms, End: at + 3*ms},
			otlptest.Span{Trace: trace, ID: "d", Parent: "c", Name: "part", Start: at + 5*ms, End: at + 6*ms},
			otlptest.Span{Trace: trace, ID: "e", Parent: "c", Name: "short", Start: at + 5*ms, End: at + 5*ms + 1000})
	}
	spans = append(spans,
		otlptest.Span{Trace: "0", ID: "f", Parent: "a", Name: "rare", Start: ms, End: 2 * ms},
		otlptest.Span{Trace: "x", ID: "a", Name: "Version", Start: 5000 * ms, End: 5001 * ms})
	var out strings.Builder
	if err := writeStages(&out, spans); err != nil {
		t.Fatal(err)
	}
	want := `| Run | 4 | 0.0 | 12.0 | 13.0 |
| &nbsp;&nbsp;first | 4 | 1.0 | 2.0 | 2.0 |
| &nbsp;&nbsp;second | 4 | 4.0 | 5.0 | 5.0 |
| &nbsp;&nbsp;&nbsp;&nbsp;part | 4 | 5.0 | 1.0 | 1.0 |
| Version | 1 | 0.0 | 1.0 | 1.0 |
`
	if _, rows, _ := strings.Cut(out.String(), "---|\n"); rows != want {
		t.Errorf("got\n%s, want\n%s", rows, want)
	}
	if err := writeStages(&out, nil); err == nil {
		t.Error("no spans are no error")
	}
}
