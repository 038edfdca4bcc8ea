package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
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
    stdin: true
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
`)
		e.ready("p")
		e.execs()
		e.copies()
		e.follows()
		e.forwards()
		e.debugs()
		e.attaches()
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

// TestLogRotation: logs are cut by size, no line is lost, and old ones go.
func TestLogRotation(t *testing.T) {
	onHulls(t, func(e *env) {
		e.pod("p", "containers: [{name: app, image: BUSYBOX, command: [sh, -c, 'i=0; while :; do seq $i $((i+999)); i=$((i+1000)); sleep 0.2; done']}]")
		p := e.ready("p")
		dir := fmt.Sprintf("/var/log/pods/%s_p_%s/app", e.ns, p.UID)
		e.eventually("logs are rotated", func() error {
			files, err := filepath.Glob(dir + "/0.log.*")
			if err == nil && len(files) < 3 {
				err = fmt.Errorf("there are %v", files)
			}
			return err
		})
		// The kubelet hands out the last file only, which may have just begun; its lines have
		// no gap.
		var log string
		e.eventually("there is a log", func() error {
			if log = e.log("p", "app"); log == "" {
				return errors.New("it is empty")
			}
			return nil
		})
		var last int
		for i, line := range strings.Split(strings.TrimSpace(log), "\n") {
			var n int
			if _, err := fmt.Sscanf(line, "%d", &n); err != nil || (i > 0 && n != last+1) {
				e.t.Fatalf("line %q comes after %d", line, last)
			}
			last = n
		}
	})
}
