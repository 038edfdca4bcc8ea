package monitor

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// execKilled begins an exec in a new container, kills the monitor when n.inside says
// that all its processes are there, and starts the next one.
func execKilled(t *testing.T, rt oci.Runtime, processes int, r ExecRequest) (*node, string) {
	t.Helper()
	n := newNode(t, rt)
	id := n.run([]string{"sleep", idle}, nil).ID
	var out safeBuffer
	done := make(chan error, 1)
	go func() {
		_, err := n.client.Exec(t.Context(), id, r, runtime.Streams{Stdout: &out})
		done <- err
	}()
	n.eventually("the exec writes", func() bool { return out.String() != "" && inside(t, n.client, id) == processes })
	n.kill()
	if err := <-done; err == nil {
		t.Error("the stream ended without an error")
	}
	n.start()
	return n, id
}

// records counts what is remembered of execs.
func (n *node) records(suffix string) int {
	n.t.Helper()
	found, err := filepath.Glob(filepath.Join(n.dir, "state", "*"+suffix))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(found)
}

func TestExecWritesOnWithoutMonitor(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		// 2 MB after the death of the monitor do not fit into a pipe: somebody has to read.
		r := ExecRequest{Process: payload("until", "/go", "2000000", "/end")}
		n, id := execKilled(t, rt, 2, r)
		st, err := n.client.State(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		root := "/proc/" + strconv.Itoa(st.Pid) + "/root"
		if err := os.WriteFile(root+"/go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.eventually("it wrote all", func() bool { return exists(root + "/end") })
		n.eventually("it is gone", func() bool { return inside(t, n.client, id) == 1 })
		n.eventually("it is forgotten", func() bool { return n.records(execSuffix) == 0 })
	})
}

func TestExecTimeoutOutlivesMonitor(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		began := time.Now()
		n, id := execKilled(t, rt, 9, ExecRequest{Process: payload("family"), Timeout: 4 * time.Second})
		if got := inside(t, n.client, id); got != 9 && time.Since(began) < 3*time.Second {
			t.Errorf("%d processes before the time is over, want 9", got)
		}
		n.eventually("the timeout has struck all the same", func() bool { return inside(t, n.client, id) == 1 })
		if d := time.Since(began); d < 4*time.Second || d > 10*time.Second {
			t.Errorf("it struck after %v, want 4s", d)
		}
		n.eventually("it is forgotten", func() bool { return n.records(execSuffix) == 0 })
	})
}

// What an exec leaves behind may write as long as it likes, whatever happens to the
// monitor meanwhile.
func TestBackgroundOfExecWritesOn(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		for name, disturb := range map[string]func(*node){
			"the same monitor": func(*node) {},
			"the next monitor": func(n *node) { n.kill(); n.start() },
			"after an upgrade": func(n *node) {
				if err := n.client.Reexec(t.Context()); err != nil {
					t.Error(err)
				}
				time.Sleep(200 * time.Millisecond)
			},
		} {
			t.Run(name, func(t *testing.T) {
				n := newNode(t, rt)
				id := n.run([]string{"sleep", idle}, nil).ID
				before := descriptors(t, n.process.Process.Pid)
				var out bytes.Buffer
				exit, err := n.client.Exec(t.Context(), id, ExecRequest{Process: payload("background", "/go", "2000000", "/end")}, runtime.Streams{Stdout: &out})
				if err != nil || exit.Code != 0 || !strings.Contains(out.String(), "left") {
					t.Fatalf("exec = %+v, %v, %q", exit, err, &out)
				}
				st, err := n.client.State(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				disturb(n)
				root := "/proc/" + strconv.Itoa(st.Pid) + "/root"
				if err := os.WriteFile(root+"/go", nil, 0o600); err != nil {
					t.Fatal(err)
				}
				n.eventually("it wrote all", func() bool { return exists(root + "/end") })
				n.eventually("it is forgotten", func() bool { return n.records(execSuffix) == 0 })
				n.eventually("its descriptors are back", func() bool { return descriptors(t, n.process.Process.Pid) <= before+1 })
			})
		}
	})
}

// A monitor may be killed when the OCI runtime has started the process and it has not
// seen that yet.
func TestExecBegunUnseen(t *testing.T) {
	inherit(t)
	eachRuntime(t, func(t *testing.T, rt oci.Runtime) {
		n, id := execKilled(t, rt, 9, ExecRequest{Process: payload("family"), Timeout: time.Hour})
		n.kill()
		for _, r := range must(t)(load[execRecord](shelf{filepath.Join(n.dir, "state")}, execSuffix)) {
			pid := []byte(strconv.Itoa(r.Process.Pid))
			if err := os.WriteFile(r.PidFile, pid, 0o600); err != nil {
				t.Fatal(err)
			}
			r.Process, r.Session, r.Deadline = Created{}, 0, monotonic()+int64(time.Second)
			if err := (shelf{filepath.Join(n.dir, "state")}).save(r.Key, execSuffix, r); err != nil {
				t.Fatal(err)
			}
		}
		n.start()
		n.eventually("the timeout strikes", func() bool { return inside(t, n.client, id) == 1 })
		n.eventually("it is forgotten", func() bool { return n.records(execSuffix) == 0 })
	})
}

func must(t *testing.T) func([]execRecord, []error) []execRecord {
	return func(records []execRecord, bad []error) []execRecord {
		t.Helper()
		if len(bad) > 0 || len(records) != 1 {
			t.Fatalf("%d records, %v, want one", len(records), bad)
		}
		return records
	}
}

func TestExecRecordsEndWithTheirContainer(t *testing.T) {
	inherit(t)
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	id := n.run([]string{"sleep", idle}, nil).ID
	for range 20 { // none is left of those that ended
		if _, err := n.client.Exec(t.Context(), id, ExecRequest{Process: payload("exit", "0"), Timeout: time.Minute}, runtime.Streams{}); err != nil {
			t.Fatal(err)
		}
	}
	n.eventually("ended execs are forgotten", func() bool { return n.records(execSuffix) == 0 })
	go func() {
		_, _ = n.client.Exec(t.Context(), id, ExecRequest{Process: payload("family"), Timeout: time.Hour}, runtime.Streams{})
	}()
	n.eventually("the family is there", func() bool { return inside(t, n.client, id) == 9 })
	n.kill()
	n.start()
	if got := n.records(execSuffix); got != 1 {
		t.Errorf("%d records, want 1", got)
	}
	if err := n.client.Signal(t.Context(), id, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	n.eventually("it is forgotten", func() bool { return n.records(execSuffix) == 0 })
}
