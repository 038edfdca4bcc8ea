package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/harness"
)

// record says which process holds the running cluster's node, and where the node is.
type record struct {
	Pid   int
	Start string `json:",omitempty"` // of the process, as proc(5) tells it
	Dir   string `json:",omitempty"`
}

func (o options) read() (r record, err error) {
	data, err := os.ReadFile(o.file(recordFile))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// write also notes when the process started.
func (o options) write(r record) (err error) {
	if r.Start == "" {
		if _, r.Start, err = harness.ProcessStat(r.Pid); err != nil {
			return err
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := o.file(recordFile) + ".new"
	return errors.Join(os.WriteFile(tmp, data, 0o644), os.Rename(tmp, o.file(recordFile)))
}

// update waits for the record that the starter writes.
func (o options) update(change func(*record)) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, err := o.read()
		if err == nil {
			change(&r)
			return o.write(r)
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// alive tells whether the process is still the one that was recorded.
func (r record) alive() bool {
	_, start, err := harness.ProcessStat(r.Pid)
	return err == nil && start == r.Start
}

// down ends the cluster and removes what it has made in the machine.
func (o options) down() error {
	r, err := o.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read which cluster runs: %w", err)
	}
	if err := r.end(); err != nil {
		return err
	}
	if r.Dir != "" {
		if err := harness.Remove(r.Dir); err != nil {
			return fmt.Errorf("remove the node: %w", err)
		}
	}
	var errs []error
	for _, name := range []string{readyFile, kubeconfigFile, recordFile} {
		if err := os.Remove(o.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	say("the cluster is gone; its logs are in %s", o.file("logs"))
	return errors.Join(errs...)
}

// end ends the process that holds the node, and with it the node. It is asked once: a second
// signal would end it while it clears up.
func (r record) end() error {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if !r.alive() {
			return nil
		}
		if err := unix.Kill(r.Pid, s); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the node: %w", err)
		}
		for deadline := time.Now().Add(time.Minute); r.alive() && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	if r.alive() {
		return fmt.Errorf("process %d does not end", r.Pid)
	}
	return nil
}

// first is the node's first process.
func (r record) first() (string, error) {
	// Any thread may be the parent.
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.Pid))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if children := strings.Fields(string(data)); len(children) > 0 {
			return children[0], nil
		}
	}
	return "", errors.New("the node has no process")
}

// shell runs a command in the node, a shell if there is none.
func (o options) shell(command []string) (int, error) {
	r, err := o.read()
	if err != nil || !r.alive() {
		return 1, errors.New("no cluster runs")
	}
	first, err := r.first()
	if err != nil {
		return 1, err
	}
	if len(command) == 0 {
		command = []string{"bash"}
	}
	c := exec.Command("nsenter", append([]string{"-t", first, "-m", "-u", "-i", "-n", "-p", "-C", "--"}, command...)...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	bin, err := filepath.Abs("bin")
	if err != nil {
		return 1, err
	}
	c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+filepath.Join(r.Dir, "cluster/admin.kubeconfig"),
		"CONTAINER_RUNTIME_ENDPOINT=unix://"+filepath.Join(r.Dir, "run/cri.sock"))
	err = c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
