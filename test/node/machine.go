package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// machine is one node: a disk that lives through reboots, and at most one running
// QEMU.
type machine struct {
	*lab
	dir, disk string
	// kubernetes is a third disk, "" if there is none.
	kubernetes string
	boots      int
}

// newDisk gives the machine an empty copy-on-write layer above the node's image.
func (m *machine) newDisk(ctx context.Context) error {
	base, err := filepath.Abs(m.lab.disk)
	if err != nil {
		return err
	}
	return command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", m.disk)
}

// boot starts the machine with a task. Its results and console are kept in m.dir, a
// file each per boot.
func (m *machine) boot(ctx context.Context, task string, settings ...string) (*running, error) {
	m.boots++
	r := &running{
		results: filepath.Join(m.dir, fmt.Sprintf("%02d-%s.results", m.boots, task)),
		console: filepath.Join(m.dir, fmt.Sprintf("%02d-%s.console", m.boots, task)),
		ended:   make(chan error, 1),
	}
	if err := os.WriteFile(r.results, nil, 0o644); err != nil {
		return nil, err
	}
	kernel := []string{"root=/dev/vda", "rw", "console=ttyS0", "quiet", "apparmor=1", "security=apparmor", "psi=1",
		"tsc=reliable", "no_timer_check", "mitigations=off", "node.task=" + task}
	r.cmd = exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "4G",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", strings.Join(append(kernel, settings...), " "),
		"-serial", "file:"+r.console,
		"-drive", "if=virtio,format=qcow2,file="+m.disk,
		"-drive", "if=virtio,format=raw,readonly=on,file="+m.payload,
		"-device", "virtio-serial-pci", "-chardev", "file,id=results,path="+r.results,
		"-device", "virtserialport,chardev=results,name=results",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng")
	if m.kubernetes != "" {
		r.cmd.Args = append(r.cmd.Args, "-drive", "if=virtio,format=raw,readonly=on,file="+m.kubernetes)
	}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	return r, nil
}

// do boots the machine, waits until it powers off, and fails unless its task
// succeeded.
func (m *machine) do(ctx context.Context, task string, settings ...string) (*running, error) {
	r, err := m.boot(ctx, task, settings...)
	if err != nil {
		return nil, err
	}
	if err := <-r.ended; err != nil {
		return r, fmt.Errorf("%s: QEMU: %w (console: %s)", task, err, r.console)
	}
	return r, r.verdict(task)
}

// running is a machine that has been switched on.
type running struct {
	cmd              *exec.Cmd
	results, console string
	ended            chan error
}

// powerLoss ends the machine as a power cut would.
func (r *running) powerLoss() {
	_ = r.cmd.Process.Kill() // it may have ended by itself
	<-r.ended
}

// waitFor blocks until the task has reported a line that starts with mark.
func (r *running) waitFor(ctx context.Context, mark string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if out, _ := os.ReadFile(r.results); bytes.Contains(append([]byte("\n"), out...), []byte("\n"+mark)) {
			return nil
		}
		select {
		case err := <-r.ended:
			r.ended <- err
			return fmt.Errorf("the machine ended before it said %q (results: %s)", mark, r.results)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// verdict fails if the task complained or did not reach its end.
func (r *running) verdict(task string) error {
	out, err := os.ReadFile(r.results)
	if err != nil {
		return err
	}
	err = r.complaints()
	if !bytes.HasSuffix(bytes.TrimSpace(out), []byte("\ndone")) {
		err = errors.Join(err, fmt.Errorf("%s did not finish (results: %s, console: %s)", task, r.results, r.console))
	}
	return err
}

// complaints are the lines of the results that start with "not ok".
func (r *running) complaints() error {
	f, err := os.Open(r.results)
	if err != nil {
		return err
	}
	defer f.Close()
	var errs []error
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "not ok") {
			errs = append(errs, errors.New(lines.Text()))
		}
	}
	return errors.Join(append(errs, lines.Err())...)
}
