package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime/monitor"
)

// lines is a log, line by line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default: // nobody waits for so many
	}
	return len(p), nil
}

func (l lines) await(t *testing.T, text string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			t.Fatalf("the log never says %q", text)
		}
	}
}

// TestWatchWithoutDescriptors: a monitor that could not be watched for a while is missed
// all the same when it dies.
func TestWatchWithoutDescriptors(t *testing.T) {
	t.Setenv("INVOCATION_ID", "") // or it is systemd that starts the next one
	sleeper := exec.Command("sleep", "3600")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }() // it may have ended
	log, dir := make(lines, 100), t.TempDir()
	k := &keeper{log: slog.New(slog.NewTextHandler(log, nil)), start: monitor.StartOptions{
		Binary: filepath.Join(dir, "none"), Socket: filepath.Join(dir, "m"), State: filepath.Join(dir, "state")}}
	ctx, cancel := context.WithCancel(t.Context())
	defer k.wg.Wait()
	defer cancel()
	restore := noDescriptors(t)
	defer restore()
	k.wg.Go(func() { k.watch(ctx, sleeper.Process.Pid) })
	log.await(t, "monitor cannot be watched")
	restore()
	if err := sleeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = sleeper.Wait() // killed
	log.await(t, "monitor has ended")
}

// noDescriptors lets no file be opened until restore is called.
func noDescriptors(t *testing.T) (restore func()) {
	t.Helper()
	r, w, err := os.Pipe() // so that what waits for files has its own
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
}
