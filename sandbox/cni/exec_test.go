package cni_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/otel/trace"

	"github.com/cricket-cri/cricket/sandbox/cni"
)

// connected is what a plugin says that has done its work.
const connected = `echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}'`

// scripted is a network of one plugin that is a script, with $DIR a directory of the test.
func scripted(t *testing.T, add, del string) (network *cni.Network, dir string) {
	t.Helper()
	dir = t.TempDir()
	script := fmt.Sprintf("#!/bin/bash\nDIR=%s\ncase $CNI_COMMAND in\nADD) %s ;;\nDEL) %s ;;\nesac\n", dir, add, del)
	for name, content := range map[string]string{
		"script": script, "10.conflist": `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"script"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	network, err := cni.Open(cni.Options{ConfDir: dir, BinDirs: []string{dir}, Root: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	return network, dir
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// timedOut checks an error of a call whose time was up, and that it did not take longer.
func timedOut(t *testing.T, what string, err error, began time.Time) {
	t.Helper()
	if !errdefs.IsUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: %v", what, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%s took %s", what, took)
	}
}

// TestPluginThatHangs: what a plugin has started holds its output open, in its process
// group or outside.
func TestPluginThatHangs(t *testing.T) {
	for name, script := range map[string]string{
		"group": "sleep 60 & wait", "session": "setsid sleep 60 & wait",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The first ADD hangs, and the second DEL.
			network, _ := scripted(t, "[ -e $DIR/add ] && "+connected+" || { touch $DIR/add; "+script+"; }",
				"[ -e $DIR/del1 ] && [ ! -e $DIR/del2 ] && { touch $DIR/del2; "+script+"; }; touch $DIR/del1")
			pod := cni.Pod{ID: "hangs-" + name}
			add := func() (time.Time, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				began := time.Now()
				_, err := network.Add(ctx, pod)
				return began, err
			}
			began, err := add()
			timedOut(t, "ADD", err, began)
			if ids, err := network.List(); len(ids) != 0 || err != nil {
				t.Errorf("ledger: %v, %v", ids, err)
			}
			if _, err := network.Add(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			began = time.Now()
			timedOut(t, "DEL", network.Del(ctx, pod.ID), began)
			if ids, err := network.List(); len(ids) != 1 || err != nil {
				t.Errorf("ledger after a DEL that failed: %v, %v", ids, err)
			}
			if err := network.Del(t.Context(), pod.ID); err != nil {
				t.Errorf("another DEL: %v", err)
			}
		})
	}
}

// TestLeaseOfAPluginThatIsKilled: an IPAM plugin that goes on after its caller was killed
// leases nothing that a DEL has not seen.
func TestLeaseOfAPluginThatIsKilled(t *testing.T) {
	for name, ipam := range map[string]string{
		"group":   "(sleep 2; touch $DIR/lease) >/dev/null 2>&1 &",
		"session": "DIR=$DIR setsid bash -c 'sleep 2; touch $DIR/lease' >/dev/null 2>&1 &",
	} {
		for _, verb := range []string{"ADD", "DEL"} {
			t.Run(name+" "+verb, func(t *testing.T) {
				t.Parallel()
				slow := "[ -e $DIR/begun ] || { touch $DIR/begun; " + ipam + " sleep 60; }"
				add, del := slow, "rm -f $DIR/lease"
				if verb == "DEL" {
					add, del = connected, slow+"; "+del
				}
				network, dir := scripted(t, add, del)
				id := "killed-" + name + "-" + verb
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				began := time.Now()
				_, err := network.Add(ctx, cni.Pod{ID: id})
				if verb == "DEL" {
					err = network.Del(ctx, id)
				}
				timedOut(t, verb, err, began)
				if err := network.Del(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Second) // by then it would be there
				if !exists(t, filepath.Join(dir, "begun")) || exists(t, filepath.Join(dir, "lease")) {
					t.Error("the address is leased to nobody")
				}
			})
		}
	}
}

// TestPluginThatLeavesSomethingBehind: a plugin has succeeded when it has ended, whoever
// holds its output.
func TestPluginThatLeavesSomethingBehind(t *testing.T) {
	t.Parallel()
	network, _ := scripted(t, "sleep 8 & "+connected, "true")
	began := time.Now()
	ips, err := network.Add(t.Context(), cni.Pod{ID: "leaves"})
	if err != nil || len(ips) != 1 {
		t.Errorf("got %v, %v", ips, err)
	}
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("ADD took %s", took)
	}
}

// TestPluginThatIsBeingWritten is tried again.
func TestPluginThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	network, dir := scripted(t, connected, "true")
	f, err := os.OpenFile(filepath.Join(dir, "script"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = f.Close() })
	if _, err := network.Add(t.Context(), cni.Pod{ID: "busy"}); err != nil {
		t.Error(err)
	}
}

// TestPluginErrors: what a plugin says of its failure is told, and is no time-out.
func TestPluginErrors(t *testing.T) {
	for name, c := range map[string]struct {
		script, want string
		is           func(error) bool
	}{
		"own":       {`echo '{"code":999,"msg":"no luck","details":"today"}'; exit 1`, "no luck; today", errdefs.IsInternal},
		"later":     {`echo '{"code":11,"msg":"not yet"}'; exit 1`, "not yet", errdefs.IsUnavailable},
		"stderr":    {"echo broken >&2; exit 3", `"broken\n": exit status 3`, errdefs.IsInternal},
		"no format": {"echo rubbish; exit 1", `message "rubbish\n"`, errdefs.IsInternal},
		"silent":    {"exit 4", "no error message: exit status 4", errdefs.IsInternal},
	} {
		network, _ := scripted(t, c.script, "true")
		_, err := network.Add(t.Context(), cni.Pod{ID: "fails"})
		if !c.is(err) || !strings.Contains(err.Error(), c.want) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPluginKnowsItsTrace(t *testing.T) {
	network, dir := scripted(t, "echo -n $TRACEPARENT >$DIR/trace; "+connected, "true")
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	if _, err := network.Add(trace.ContextWithSpanContext(t.Context(), span), cni.Pod{ID: "traced"}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "trace"))
	if want := fmt.Sprintf("00-%s-%s-00", span.TraceID(), span.SpanID()); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
