package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// A container that may trace the first process of its pod finds nothing of the host
// there: no files, no capabilities, no network.
func TestPodInitIsConfined(t *testing.T) {
	dir, err := os.MkdirTemp("", "pod-init-") // t.TempDir's are closed to the user namespace
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	program := filepath.Join(dir, "cricket-monitor")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	pod := []syscall.SysProcIDMap{{HostID: 200000, Size: 65536}}
	for name, attr := range map[string]*syscall.SysProcAttr{
		"plain": {Cloneflags: syscall.CLONE_NEWPID},
		"user namespace": {
			Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: pod, GidMappings: pod, GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			init := exec.Command(program, "pod-init", "test")
			init.SysProcAttr, init.Dir = attr, "/"
			if err := init.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = init.Process.Kill()
				_ = init.Wait()
			})
			proc := "/proc/" + strconv.Itoa(init.Process.Pid)
			awaitNoCapabilities(t, proc)
			if entries, err := os.ReadDir(proc + "/root/"); err != nil || len(entries) > 0 {
				t.Errorf("root: %v %v", entries, err)
			}
			if err := os.WriteFile(proc+"/root/file", nil, 0o600); err == nil {
				t.Error("its root is writable")
			}
			for _, ns := range []string{"net", "mnt", "pid"} {
				mine, _ := os.Readlink("/proc/self/ns/" + ns)
				if its, err := os.Readlink(proc + "/ns/" + ns); err != nil || its == mine {
					t.Errorf("%s namespace %s, the host's is %s: %v", ns, its, mine, err)
				}
			}
			// It keeps the name by which a monitor finds it again.
			if args, err := os.ReadFile(proc + "/cmdline"); err != nil || !bytes.HasSuffix(args, []byte("\x00pod-init\x00test\x00")) {
				t.Errorf("arguments %q, %v", args, err)
			}
		})
	}
}

func awaitNoCapabilities(t *testing.T, proc string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(proc + "/status")
		if err != nil {
			t.Fatal(err)
		}
		none := []byte(":\t0000000000000000\n")
		if bytes.Contains(status, append([]byte("CapPrm"), none...)) && bytes.Contains(status, append([]byte("CapBnd"), none...)) &&
			bytes.Contains(status, []byte("NoNewPrivs:\t1\n")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it keeps capabilities:\n%s", status)
		}
	}
}
