package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProbes(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"large": 300 << 10, "sub/other": 20 << 10, "small": 10} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "same")); err != nil {
		t.Fatal(err)
	}
	files, err := openFiles(dir)
	if err != nil || len(files) != 2 {
		t.Errorf("reads %d files (%v), want the two larger ones", len(files), err)
	}
	for kind, want := range map[string]string{
		"root":   "root: read,root: read 4 KiB at random,root: read again",
		"volume": "volume: read,volume: write and sync",
	} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"probe", kind, dir}, &out); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		var rates map[string]float64
		if err := json.Unmarshal(out.Bytes(), &rates); err != nil {
			t.Fatal(err)
		}
		for name := range strings.SplitSeq(want, ",") {
			if rates[name] <= 0 {
				t.Errorf("%s: %v has no rate %q", kind, rates, name)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "probe")); !os.IsNotExist(err) {
		t.Errorf("the volume's file is left: %v", err)
	}
	if err := probe([]string{"root"}, os.Stdout); err == nil {
		t.Error("a probe without a directory was accepted")
	}
	if err := probe([]string{"root", filepath.Join(dir, "sub/none")}, os.Stdout); err == nil {
		t.Error("a directory that does not exist was read")
	}
}

func TestLogRate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	go func() {
		f, err := os.Create(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		// The first line is longer than the others, as a stamp may be.
		if _, err := f.WriteString("stamp"); err != nil {
			t.Error(err)
		}
		for range 4 {
			time.Sleep(20 * time.Millisecond)
			if err := writeLog("160000", f); err != nil {
				t.Error(err)
			}
		}
	}()
	rate, err := logRate(t.Context(), path, time.Now())
	if err != nil || rate < 1 || rate > 64/0.05 {
		t.Errorf("61 MiB within at least 60 ms are %.0f MiB/s (%v)", rate, err)
	}
}

func TestStreams(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveStream(c)
		}
	}()
	for _, kind := range []byte{hostSends, podSends} {
		rate, err := stream(t.Context(), l.Addr().String(), kind)
		if err != nil || rate < 1 {
			t.Errorf("%c: %.1f MiB/s (%v)", kind, rate, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := streams(ctx, "127.0.0.1"); err == nil {
		t.Error("nobody to connect with, and no error")
	}
}
