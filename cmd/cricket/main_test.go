package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/config"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := dispatch(t.Context(), args, &out)
	return out.String(), err
}

func TestConfigCommands(t *testing.T) {
	text, err := run(t, "config", "default")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, "config", "check", file); err != nil || !strings.Contains(out, "no mistakes") {
		t.Errorf("the default: %q, %v", out, err)
	}
	if err := os.WriteFile(file, []byte("\nrot = 1\nlog_level = 'x'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "config", "check", file)
	if !errors.Is(err, errQuiet) || !strings.Contains(out, "line 2: rot") || !strings.Contains(out, "line 3: log_level") {
		t.Errorf("mistakes: %q, %v", out, err)
	}
}

func TestUnknownCommands(t *testing.T) {
	for _, args := range [][]string{{}, {"config"}, {"config", "defaults"}, {"frob"}} {
		if _, err := run(t, args...); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}

// The file systems are tried for real, so this needs root and EROFS in the kernel.
func TestCheckTriesTheFileSystems(t *testing.T) {
	root := t.TempDir()
	h := host{config: config.Default()}
	h.config.Root = root
	for name, examine := range map[string]func(context.Context) []finding{"overlay": h.overlay, "EROFS": h.erofs} {
		if f := examine(t.Context()); f[0].Grade != good {
			t.Errorf("%s: %+v", name, f)
		}
	}
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("mounts left behind below %s, %v", root, err)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	conf, bin := filepath.Join(dir, "net.d"), filepath.Join(dir, "bin")
	out, err := run(t, "check", "--json", "--root", filepath.Join(dir, "root"), "--cni-conf-dir", conf, "--cni-bin-dir", bin)
	if !errors.Is(err, errQuiet) {
		t.Fatalf("err = %v", err)
	}
	network := func(out string) (grades []grade) {
		var found []finding
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if f.Grade == failed && f.Fix == "" {
				t.Errorf("%s says nothing to do", f.Name)
			}
			if strings.HasPrefix(f.Name, "CNI") {
				grades = append(grades, f.Grade)
			}
		}
		return grades
	}
	if got := network(out); len(got) != 1 || got[0] != failed {
		t.Errorf("no network: %v", got)
	}
	write := func(path, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(conf, "0.conflist"), `{"plugins":[]}`) // passed over
	write(filepath.Join(conf, "1.conflist"), `{"plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}`)
	write(filepath.Join(bin, "bridge"), "")
	h := host{config: config.Default()}
	h.config.Network = config.Network{ConfDir: conf, BinDirs: []string{bin}}
	if f := h.network(t.Context()); len(f) != 2 || f[0].Grade != good || f[1].Lacks != "host-local" {
		t.Errorf("a plugin is missing: %+v", f)
	}
	write(filepath.Join(bin, "host-local"), "")
	if f := h.network(t.Context()); len(f) != 2 || f[1].Grade != good {
		t.Errorf("all there: %+v", f)
	}
}

// busyDaemon answers Status as a daemon with one operation does.
type busyDaemon struct {
	v1.UnimplementedRuntimeServiceServer
}

func (busyDaemon) Status(_ context.Context, r *v1.StatusRequest) (*v1.StatusResponse, error) {
	if !r.GetVerbose() {
		return &v1.StatusResponse{}, nil
	}
	return &v1.StatusResponse{Info: map[string]string{
		"operations": `[{"kind":"pull image","name":"busybox","stage":"fetch layers","ageNanos":2500000000}]`,
	}}, nil
}

func TestOps(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	v1.RegisterRuntimeServiceServer(g, busyDaemon{})
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	defer func() { g.Stop(); <-done }()
	out, err := run(t, "ops", "--socket", socket)
	if err != nil || strings.Join(strings.Fields(out), " ") != "OPERATION NAME STAGE AGE pull image busybox fetch layers 2.5s" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := run(t, "ops", "--socket", socket+"x"); err == nil {
		t.Error("no daemon, no error")
	}
}
