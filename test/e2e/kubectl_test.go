package e2e

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKubectl does what people do by hand.
func TestKubectl(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", `
containers:
  - name: app
    image: AGNHOST
    command: [sh, -c, "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.2; done & exec /agnhost netexec --http-port=8080"]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
`)
		e.ready("p")
		e.part("exec", (*env).execs)
		e.part("cp", (*env).copies)
		e.part("logs", (*env).follows)
		e.part("port-forward", (*env).forwards)
		e.part("debug", (*env).debugs)
		e.part("debug of a copy", (*env).debugsCopy)
		e.part("attach", (*env).attaches)
		e.part("attach with input", (*env).attachesInput)
	})
}

func (e *env) execs() {
	c := e.Kubectl(e.t.Context(), "exec", "-n", e.ns, "-i", "p", "--", "sh", "-c", "cat; echo wrong >&2; exit 3")
	c.Stdin = strings.NewReader("some input\n")
	out, err := e.run(c)
	if c.ProcessState.ExitCode() != 3 || !strings.Contains(out, "some input\n") || !strings.Contains(out, "wrong\n") {
		e.t.Errorf("exec: %v: %q", err, out)
	}
}

func (e *env) copies() {
	dir := e.t.TempDir()
	data := strings.Repeat("0123456789", 1<<17)
	e.ok(os.WriteFile(filepath.Join(dir, "there"), []byte(data), 0o644))
	e.kubectl("cp", filepath.Join(dir, "there"), "p:/tmp/there")
	e.kubectl("cp", "p:/tmp/there", filepath.Join(dir, "back"))
	if back, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(back) != data {
		e.t.Errorf("cp: %d bytes came back, %v", len(back), err)
	}
	tree := filepath.Join(dir, "tree")
	e.ok(os.MkdirAll(filepath.Join(tree, "deep"), 0o755))
	e.ok(os.WriteFile(filepath.Join(tree, "deep/file"), []byte("deep"), 0o644))
	e.ok(os.WriteFile(filepath.Join(tree, "run"), []byte("#!/bin/sh\necho ran"), 0o755))
	e.kubectl("cp", tree, "p:/tmp/tree")
	if out := e.exec("p", "app", "cat /tmp/tree/deep/file; /tmp/tree/run"); out != "deepran\n" {
		e.t.Errorf("cp of a directory: %q", out)
	}
}

// follows reads a log that grows, as long as it reads.
func (e *env) follows() {
	out, stop := e.background("logs", "-f", "p")
	defer stop()
	lines := bufio.NewScanner(out)
	next := 0
	for next < 10 && lines.Scan() {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "tick %d", &n); err != nil {
			continue // the server's own
		}
		if n != next {
			e.t.Errorf("logs -f: line %d comes after line %d", n, next-1)
		}
		next = n + 1
	}
	if next < 10 {
		e.t.Errorf("logs -f ended with line %d: %v", next, lines.Err())
	}
}

// background starts kubectl in the test's namespace, for as long as the test has patience or
// until stop is called, and returns what it prints.
func (e *env) background(args ...string) (out io.Reader, stop func()) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	c := e.Kubectl(ctx, append([]string{"-n", e.ns}, args...)...)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		cancel()
		e.t.Fatal(err)
	}
	return out, func() {
		cancel()
		_ = c.Wait() // it was killed
	}
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

func (e *env) forwards() {
	out, stop := e.background("port-forward", "p", ":8080")
	defer stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	m := forwarding.FindStringSubmatch(line)
	if err != nil || m == nil {
		e.t.Fatalf("port-forward says %q, %v", line, err)
	}
	client := http.Client{Timeout: patience}
	for range 3 {
		resp, err := client.Get("http://" + m[1] + "/echo?msg=hello")
		e.ok(err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != "hello" {
			e.t.Errorf("port-forward: %q, %v", body, err)
		}
	}
}

func (e *env) debugs() {
	e.kubectl("debug", "p", "--image", e.words().Replace("BUSYBOX"), "--target", "app", "--container", "debug", "--profile", "general", "--", "sleep", "3600")
	e.runs("p", "debug")
	if out := e.exec("p", "debug", "tr '\\0' ' ' < /proc/1/cmdline"); !strings.Contains(out, "/agnhost netexec") {
		e.t.Errorf("debug: the first process is %q", out)
	}
}

// debugsCopy looks into a pod like another, without disturbing that one.
func (e *env) debugsCopy() {
	e.kubectl("debug", "p", "--copy-to", "copy", "--container", "app", "--share-processes", "--profile", "general", "--", "sleep", "3600")
	e.runs("copy", "app")
	// The first process is not the container's own: the pod's processes are shared.
	if out := e.exec("copy", "app", "ls /agnhost; tr '\\0' ' ' < /proc/1/cmdline"); !strings.HasPrefix(out, "/agnhost\n") || strings.Contains(out, "sleep") {
		e.t.Errorf("debug of a copy: it has %q", out)
	}
	if class, want := e.get("copy").Spec.RuntimeClassName, e.get("p").Spec.RuntimeClassName; fmt.Sprint(class == nil) != fmt.Sprint(want == nil) {
		e.t.Errorf("debug of a copy: it has another class than the pod")
	}
}

func (e *env) attaches() {
	out, stop := e.background("attach", "p", "-q")
	defer stop()
	lines := bufio.NewScanner(out)
	found := false
	for began := time.Now(); !found && time.Since(began) < patience && lines.Scan(); {
		found = strings.HasPrefix(lines.Text(), "tick ")
	}
	if !found {
		e.t.Errorf("attach shows no line: %v", lines.Err())
	}
}

// attachesInput types into a container that listens.
func (e *env) attachesInput() {
	e.pod("listener", `
containers: [{name: app, image: BUSYBOX, stdin: true, command: [sh, -c, 'while read line; do echo heard $line; done; echo over; sleep 3600']}]
`)
	e.ready("listener")
	ctx, cancel := context.WithTimeout(e.t.Context(), patience)
	defer cancel()
	c := e.Kubectl(ctx, "-n", e.ns, "attach", "listener", "-q", "-i")
	typed, err := c.StdinPipe()
	e.ok(err)
	e.ok(c.Start())
	defer func() { cancel(); _ = c.Wait() }() // it was killed
	for _, word := range []string{"one", "two"} {
		_, err := fmt.Fprintln(typed, word)
		e.ok(err)
		e.eventually("it hears "+word, func() error {
			if out := e.log("listener", "app"); !strings.HasSuffix(out, "heard "+word+"\n") {
				return fmt.Errorf("it says %q", out)
			}
			return nil
		})
	}
}

// TestLogRotation: logs are cut by size, no line is lost, and old ones go.
func TestLogRotation(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", "containers: [{name: app, image: BUSYBOX, command: [sh, -c, 'i=0; while :; do seq $i $((i+999)); i=$((i+1000)); sleep 0.2; done']}]")
		p := e.ready("p")
		dir := fmt.Sprintf("/var/log/pods/%s_p_%s/app", e.ns, p.UID)
		rotated := func() []string {
			files, err := filepath.Glob(dir + "/0.log.*")
			e.ok(err)
			return files
		}
		// Those that were cut off first are compressed, and have gone in the end.
		var first string
		e.eventually("logs are rotated", func() error {
			files := rotated()
			if len(files) < 3 {
				return fmt.Errorf("there are %v", files)
			}
			first = strings.TrimSuffix(files[0], ".gz")
			return nil
		})
		e.eventually("the oldest goes", func() error {
			files := rotated()
			if len(files) > 5 || strings.TrimSuffix(files[0], ".gz") == first {
				return fmt.Errorf("there are %v", files)
			}
			return nil
		})
		e.eventually("there is a log", func() error {
			if e.log("p", "app") == "" {
				return errors.New("it is empty")
			}
			return nil
		})
		// What there is has no gap, across the cuts.
		e.eventually("all files can be read while none is cut", func() error {
			before := rotated()
			var last int
			for _, file := range append(slices.Clone(before), dir+"/0.log") {
				var err error
				if last, err = counts(file, last); err != nil && slices.Equal(before, rotated()) {
					e.t.Fatal(err)
				} else if err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// counts reads a log of numbers, compressed or not, that goes on from last, 0 for any. It
// returns the last number.
func counts(file string, last int) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return 0, err
		}
	}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var when, stream, tag string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &when, &stream, &tag, &n); err != nil || last > 0 && n != last+1 {
			return 0, fmt.Errorf("%s: line %q comes after %d", filepath.Base(file), lines.Text(), last)
		}
		last = n
	}
	return last, lines.Err()
}
