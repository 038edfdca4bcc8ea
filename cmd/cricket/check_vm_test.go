package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/vmsandbox/accel"
)

func TestCheckSaysHowMachinesRun(t *testing.T) {
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	tcg := accel.Verdict{Accelerator: accel.TCG, Reason: "QEMU has ended;\n it said: no", Proven: true, At: at, Took: 250 * time.Millisecond}
	for name, c := range map[string]struct {
		wanted  string
		verdict accel.Verdict
		grade   grade
		detail  string
	}{
		"falls back": {accel.Auto, tcg, good, "tcg: QEMU has ended; it said: no (tried in 250ms, at 2026-11-23T01:02:03Z)"},
		"demanded":   {accel.KVM, tcg, limited, "tcg: QEMU has ended; it said: no (tried in 250ms, at 2026-11-23T01:02:03Z)"},
		"works":      {accel.KVM, accel.Verdict{Accelerator: accel.KVM, Reason: "a guest has answered"}, good, "kvm: a guest has answered"},
	} {
		f := judge("x", c.wanted, c.verdict)
		if f.Grade != c.grade || f.Detail != c.detail || (f.Grade == good) != (f.Fix == "") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// installed is a node with a QEMU that knows its version, and a guest image.
func installed(t *testing.T) host {
	t.Helper()
	dir := t.TempDir()
	h := host{config: config.Default()}
	h.config.Root, h.config.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	h.config.VM.QEMU, h.config.VM.Kernel, h.config.VM.Initrd = filepath.Join(dir, "qemu"), filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	err := errors.Join(
		os.WriteFile(h.config.VM.QEMU, []byte("#!/bin/sh\necho QEMU emulator version 9.9\n"), 0o755),
		os.WriteFile(h.config.VM.Kernel, nil, 0o644), os.WriteFile(h.config.VM.Initrd, nil, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCheckOfTheAccelerator(t *testing.T) {
	h := installed(t)
	if f := h.accelerator(t.Context())[0]; f.Grade != good || !strings.Contains(f.Detail, "/dev/kvm") {
		t.Errorf("nothing is known yet: %+v", f)
	}
	h.reprobe = true
	if f := h.accelerator(t.Context())[0]; f.Grade != limited || !strings.Contains(f.Fix, "start cricketd") {
		t.Errorf("without a monitor: %+v", f)
	}
	h.reprobe, h.config.VM.Accelerator = false, accel.TCG
	if f := h.accelerator(t.Context())[0]; f.Grade != good || !strings.HasPrefix(f.Detail, "tcg: the configuration") {
		t.Errorf("tcg is configured: %+v", f)
	}
	h.config.VM.Accelerator, h.config.VM.QEMU = accel.Auto, "no-such-qemu"
	if f := h.accelerator(t.Context())[0]; !strings.Contains(f.Detail, "installed") {
		t.Errorf("no QEMU: %+v", f)
	}
	if left, err := os.ReadDir(h.config.Root); err == nil {
		t.Errorf("left behind: %v", left)
	}
}
