package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// TestStandardErrorIsGone: the monitor outlives whoever reads its log, and what it starts
// does not ignore SIGPIPE for that.
func TestStandardErrorIsGone(t *testing.T) {
	dir, program := build(t)
	socket := filepath.Join(dir, "socket")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	process := exec.Command(program, "--socket", socket, "--state", filepath.Join(dir, "state"))
	process.Stderr = w
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer func() {
		_ = process.Process.Kill() // it may have ended
		_ = process.Wait()
	}()
	client := monitor.NewClient(monitor.DialPatiently(socket, 10*time.Second))
	if _, err := client.Hello(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Close()
	old, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := client.Reexec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("a connection of the old program: %v", err)
	}
	info, err := client.Hello(t.Context()) // the new program has logged that it serves
	if err != nil || info.Pid != process.Process.Pid {
		t.Fatalf("hello = %+v, %v, want the same process", info, err)
	}
	made, err := client.Spawn(t.Context(), monitor.SpawnRequest{ID: "child", Args: []string{"/bin/sleep", "3600"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ignored := ignoredSignals(t, made.Pid); ignored&(1<<(unix.SIGPIPE-1)) != 0 {
		t.Errorf("a child ignores signals %#x, SIGPIPE among them", ignored)
	}
	if err := client.Delete(t.Context(), "child"); err != nil {
		t.Error(err)
	}
}

func ignoredSignals(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "SigIgn:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return mask
		}
	}
	t.Fatal("no SigIgn")
	return 0
}
