package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{
		"--endpoint", "a=unix:///a", "--endpoint", "unix:///b", "--processes", "a=x,12", "--processes", "a=y", "--rounds", "5",
		"--parallel", "2,4", "--memory-pods", "3,9", "--memory-pods", "a=1,2", "--list-pods", "a=3,7", "--restart", "a=systemctl restart a=b",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.endpoints) != 2 || o.endpoints[0].address != "unix:///a" || o.endpoints[1].name != "unix:///b" {
		t.Errorf("endpoints are %+v", o.endpoints)
	}
	a := o.endpoints[0]
	got := fmt.Sprint(a.processes, o.rounds, o.parallel, a.memoryPods, o.endpoints[1].memoryPods, a.restartPods, a.listPods, o.endpoints[1].listPods, o.measure)
	if got != "[x 12 y] 5 [2 4] [1 2] [3 9] 200 [3 7] [30] [start exec list]" {
		t.Errorf("parsed %s", got)
	}
	if a.restart != "systemctl restart a=b" {
		t.Errorf("the restart is %q", a.restart)
	}
}

func TestParseMistakes(t *testing.T) {
	for _, bad := range [][]string{
		{},
		{"--endpoint", "a=unix:///a", "--processes", "b=x"},
		{"--endpoint", "a=unix:///a", "--processes", "x"},
		{"--endpoint", "a=unix:///a", "--restart", "x"},
		{"--endpoint", "a=unix:///a", "--handler", "b=vm"},
		{"--endpoint", "a=unix:///a", "--endpoint", "a=unix:///b"},
		{"--endpoint", "a", "--rounds", "-1"},
		{"--endpoint", "a", "--workers", "0"},
		{"--endpoint", "a", "--parallel", "1,0"},
		{"--endpoint", "a", "--memory-pods", "9,3"},
		{"--endpoint", "a", "--memory-pods", "9"},
		{"--endpoint", "a", "--restart-pods", "0"},
		{"--endpoint", "a", "--list-pods", "30,0"},
		{"--endpoint", "a", "--list-pods", "b=30"},
		{"--endpoint", "a", "--measure", "start,nothing"},
		{"--endpoint", "a", "--measure", "image"},
		{"--endpoint", "a", "--measure", "memory"},
		{"--endpoint", "a", "--measure", "restart"},
		{"--endpoint", "a", "--measure", "network", "--host-network"},
		{"--endpoint", "a", "word"},
	} {
		if _, err := parse(bad, &bytes.Buffer{}); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func TestParseHandlers(t *testing.T) {
	o, err := parse([]string{"--handler", "c", "--handler", "b=vm", "--handler", "d=", "--endpoint", "a=x", "--endpoint", "b=x", "--endpoint", "d=x"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range o.endpoints {
		got = append(got, e.name+"="+e.handler)
	}
	if strings.Join(got, " ") != "a=c b=vm d=" {
		t.Errorf("handlers are %v", got)
	}
}

// All sections are those for which everything is there.
func TestParseAll(t *testing.T) {
	for args, want := range map[string]string{
		"": "start exec parallel list log stream files network churn",
		"--processes a=x --restart a=y --pull-image z": "memory start exec parallel list image log stream files network churn restart",
		"--host-network": "start exec parallel list log stream files churn",
	} {
		o, err := parse(append([]string{"--endpoint", "a=x", "--measure", "all"}, strings.Fields(args)...), &bytes.Buffer{})
		if got := strings.Join(o.measure, " "); err != nil || got != want {
			t.Errorf("with %q all are %s (%v), want %s", args, got, err, want)
		}
	}
}

func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if _, err := parse([]string{"--help"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for _, s := range sections() {
		if !strings.Contains(out.String(), "  "+s.name+" ") || !strings.Contains(out.String(), s.what) {
			t.Errorf("section %s is not explained in\n%s", s.name, &out)
		}
	}
}

// One endpoint that fails does not keep the others from being measured.
func TestEach(t *testing.T) {
	good, bad := &bench{endpoint: endpoint{name: "good"}, result: &figures.Endpoint{}}, &bench{endpoint: endpoint{name: "bad"}, result: &figures.Endpoint{}}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s := &session{benches: []*bench{bad, good}, section: "x", progress: newProgress(null)}
	calls := map[string]int{}
	err = s.turns(t.Context(), 3, func(b *bench, _ int) error {
		calls[b.endpoint.name]++
		if b == bad {
			return errors.New("no")
		}
		return nil
	})
	if err != nil || calls["good"] != 3 || calls["bad"] != 1 {
		t.Errorf("called %v (%v)", calls, err)
	}
	if strings.Join(bad.result.Errors, "") != "x: no" || len(good.result.Errors) > 0 {
		t.Errorf("errors are %q and %q", bad.result.Errors, good.result.Errors)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.turns(ctx, 3, func(*bench, int) error { cancel(); return ctx.Err() })
	if !errors.Is(err, context.Canceled) || len(good.result.Errors) > 0 {
		t.Errorf("after the end of the run: %v, %q", err, good.result.Errors)
	}
}

func TestNobodyAnswers(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"--endpoint", "a=unix://" + filepath.Join(t.TempDir(), "none")}, &out)
	if err == nil || !strings.Contains(err.Error(), "a: no runtime answers on unix://") || out.Len() > 0 {
		t.Errorf("%v, %q", err, &out)
	}
}

// A run that was written is shown and held against what is expected of it.
func TestFromFile(t *testing.T) {
	dir := t.TempDir()
	e := &figures.Endpoint{Name: "a"}
	for i := range 10 {
		e.AddTime("start", "pod start", time.Duration(i+1)*time.Millisecond)
	}
	in, expect, markdown := filepath.Join(dir, "run.json"), filepath.Join(dir, "expect"), filepath.Join(dir, "run.md")
	if err := writeFile(in, (&figures.Run{Endpoints: []*figures.Endpoint{e}}).Write); err != nil {
		t.Fatal(err)
	}
	for _, bound := range []string{"x", "5", "4"} {
		good := bound == "5"
		if err := os.WriteFile(expect, []byte("start/pod start: a p50 <= "+bound), 0o644); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := run(t.Context(), []string{"--from", in, "--expect", expect, "--markdown", markdown, "--plots", filepath.Join(dir, "plots")}, &out)
		if (err == nil) != good {
			t.Errorf("a bound of %s: %v", bound, err)
		}
		if good && !strings.Contains(out.String(), "5.00 / 9.00 / 10.0") {
			t.Errorf("shown is %s", &out)
		}
	}
	data, err := os.ReadFile(markdown)
	if err != nil || !bytes.Contains(data, []byte("![start](plots/start.svg)")) || !bytes.Contains(data, []byte("| missed |")) {
		t.Errorf("wrote %s (%v)", data, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "plots/start.svg")); err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), []string{"--from", expect}, &bytes.Buffer{}); err == nil {
		t.Error("what is no run was read")
	}
}

func TestMemoryOf(t *testing.T) {
	u, err := memoryOf([]string{strconv.Itoa(os.Getpid())})
	if err != nil || u.processes != 1 || u.pss == 0 || u.rss < u.pss || u.available == 0 {
		t.Errorf("this process uses %+v (%v)", u, err)
	}
	if _, err = memoryOf([]string{"no-such-program"}); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("nothing has memory: %v", err)
	}
}

func TestCPUOf(t *testing.T) {
	c := exec.Command("sh", "-c", "while :; do :; done")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	pid := []string{strconv.Itoa(c.Process.Pid)}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		used, err := cpuOf(pid)
		if err != nil {
			t.Fatal(err)
		}
		if used >= 50*time.Millisecond {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a loop has used %s in a minute", used)
		}
	}
}

func TestStatTicks(t *testing.T) {
	for line, want := range map[string]uint64{
		"12 (a b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20":     42,
		"12 (a) ) (x) S 1 2 3 4 5 6 7 8 9 10 1 2 0 0 20 0": 3,
	} {
		if got, err := statTicks([]byte(line)); err != nil || got != want {
			t.Errorf("%s: %d ticks (%v), want %d", line, got, err, want)
		}
	}
	for _, bad := range []string{"", "12 (a) S 1", "12 (a) S 1 2 3 4 5 6 7 8 9 10 x y 0"} {
		if got, err := statTicks([]byte(bad)); err == nil {
			t.Errorf("%q has %d ticks", bad, got)
		}
	}
}

func TestField(t *testing.T) {
	if got := field([]byte("Rss:  4 kB\nPss:   3 kB\nPss_Dirty: 1 kB\n"), "Pss:"); got != 3<<10 {
		t.Errorf("Pss is %d", got)
	}
}
