package conformance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox/node"
)

// TestClones makes more machines than wait, one after the other without a pause: each has
// the time, and random numbers, names and addresses of its own from its first moment on.
func TestClones(t *testing.T) {
	const (
		clones = 20
		pool   = 2 // the default
		skew   = 50 * time.Millisecond
	)
	h := NewVirtualHull(t, func(o *node.Options) { o.Pool = pool })
	program, err := os.ReadFile(filepath.Join(os.Getenv(binEnv), "clone"))
	if err != nil {
		t.Fatal(err)
	}
	image := h.Node.derive(t, "clone", string(program))
	seen := map[string]map[string]string{}
	one := func(what, value, who string) {
		t.Helper()
		if seen[what] == nil {
			seen[what] = map[string]string{}
		}
		if other := seen[what][value]; other != "" || value == "" {
			t.Errorf("%s of %s and %s: %q", what, other, who, value)
		}
		seen[what][value] = who
	}
	var worst time.Duration
	var first runtime.Container
	var offFirst time.Duration
	began := time.Now()
	for i := range clones {
		name := fmt.Sprintf("clone-%d", i)
		s := h.pod(t, func(c *sandbox.Config) { c.ID, c.Name, c.UID, c.Hostname = id(t, name+" pod"), name, "uid-"+name, name })
		c := h.shell(t, name, "")
		c.Image, c.Args = image, []string{"/clone"}
		live := start(t, s, c)
		off, within := clockOf(t, live)
		if off-within > skew || -off-within > skew {
			t.Errorf("the clock of %s is off by %v (%v more or less)", name, off, within)
		}
		worst = max(worst, off.Abs())
		if first == nil {
			first, offFirst, began = live, off, time.Now()
		}
		for what, value := range firstWords(t, c.LogPath) {
			if what == "host name" && value != name {
				t.Errorf("the host name of %s is %s", name, value)
			}
			one(what, value, name)
		}
		one("machine id", machineIDOf(t, s), name)
	}
	off, _ := clockOf(t, first)
	t.Logf("clocks are off by at most %v; in %v the first went wrong by %v", worst, time.Since(began), off-offFirst)
	for what, values := range seen {
		if len(values) != clones {
			t.Errorf("%s: %d of %d", what, len(values), clones)
		}
	}
	if len(seen) != 6 {
		t.Errorf("only %v was compared", seen)
	}
}

// firstWords is what the program clone says, from the log.
func firstWords(t *testing.T, log string) (said map[string]string) {
	t.Helper()
	eventually(t, func() bool { return strings.Contains(logged(t, log), "}\n") })
	line := strings.TrimPrefix(logged(t, log), "stdout F ")
	if err := json.Unmarshal([]byte(line), &said); err != nil || len(said) != 5 {
		t.Fatalf("%q: %v", line, err)
	}
	return said
}

// clockOf asks a machine for the time and compares with the host's, before and after: the
// quickest of some answers tells most.
func clockOf(t *testing.T, c runtime.Container) (off, within time.Duration) {
	t.Helper()
	questions, ask := io.Pipe()
	answers, answer := io.Pipe()
	ended := make(chan error, 1)
	ctx := limited(t)
	go func() {
		exit, err := c.Exec(ctx, runtime.ExecConfig{
			Args: []string{"/clone", "clock"}, Streams: runtime.Streams{Stdin: questions, Stdout: answer},
		})
		if err == nil && exit.Code != 0 {
			err = fmt.Errorf("exit code %d", exit.Code)
		}
		_ = answer.CloseWithError(err)
		ended <- err
	}()
	lines := bufio.NewScanner(answers)
	within = time.Hour
	for range 5 {
		before := time.Now()
		if _, err := ask.Write([]byte{'?'}); err != nil || !lines.Scan() {
			t.Fatal(err, lines.Err())
		}
		round := time.Since(before)
		nanos, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if round/2 < within {
			within, off = round/2, time.Unix(0, nanos).Sub(before.Add(round/2))
		}
	}
	_ = ask.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return off, within
}

// machineIDOf is what the guest said that it was told.
func machineIDOf(t *testing.T, s sandbox.Sandbox) string {
	t.Helper()
	var r struct {
		Guest struct {
			MachineID string `json:"machineID"`
		} `json:"guest"`
	}
	if err := json.Unmarshal(s.Record().Data, &r); err != nil {
		t.Fatal(err)
	}
	return r.Guest.MachineID
}
