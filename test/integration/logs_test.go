package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/test/images"
)

func TestLogs(t *testing.T) {
	n := Start(t)
	n.Pull(images.Busybox)
	n.Together(map[string]func(*testing.T, *Node){"rotation": rotation, "long lines": longLines, "reopen": reopen})
}

var logLine = regexp.MustCompile(`^(\S+) (stdout|stderr) ([FP]) (.*)$`)

// content joins the parts of a log's lines.
func content(t *testing.T, log string) (stdout, stderr string, partial int) {
	t.Helper()
	var text [2]strings.Builder
	for line := range strings.Lines(log) {
		m := logLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			t.Fatalf("the log has a line %.200q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, m[1]); err != nil {
			t.Fatalf("the log has a time %q: %v", m[1], err)
		}
		b := &text[0]
		if m[2] == "stderr" {
			b = &text[1]
		}
		b.WriteString(m[4])
		if m[3] == "F" {
			b.WriteByte('\n')
		} else {
			partial++
		}
	}
	return text[0].String(), text[1].String(), partial
}

// lastLine says how many there are before it.
var lastLine = regexp.MustCompile(`F end (\d+)\n`)

// rotation: the log is renamed under a container that writes as fast as it can, until
// twenty parts have lines, and none is lost, doubled or out of order.
func rotation(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "i=0; until [ -e /enough ]; do seq $((i+1)) $((i+10000)); i=$((i+10000)); done; echo end $i; sleep 3600")
	id := n.Started(pod, p, c)
	name := filepath.Join(p.GetLogDirectory(), c.GetLogPath())
	var parts []string
	var lines string
	for i, loaded := 0, 0; ; i++ {
		time.Sleep(10 * time.Millisecond)
		part := fmt.Sprintf("%s.%d", name, i)
		if err := os.Rename(name, part); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
		if _, err := n.Runtime.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		if m := lastLine.FindSubmatch(data); m != nil {
			lines = string(m[1])
			break
		}
		if len(data) > 0 {
			if loaded++; loaded == 20 {
				n.Exec(id, "touch", "/enough")
			}
		}
		if i > 3000 {
			t.Fatal("the container does not end")
		}
	}
	next := 1
	for _, part := range append(parts, name) {
		data, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		out, _, _ := content(t, string(data))
		for line := range strings.Lines(out) {
			if line == "end "+lines+"\n" {
				continue
			}
			if line != fmt.Sprintf("%d\n", next) {
				t.Fatalf("%s: line %q instead of %d", part, line, next)
			}
			next++
		}
	}
	if got := strconv.Itoa(next - 1); got != lines {
		t.Errorf("%s lines, want %s", got, lines)
	}
}

// longLines: they are written in parts, and those who join these get the line.
func longLines(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "spew 100000 50000; spew 65536 16384; spew 16385 16385; printf unfinished; echo >&2 error; echo; printf last")
	n.Exited(n.Started(pod, p, c), settle)
	out, errs, partial := content(t, n.Log(p, c))
	x := func(size int) string { return strings.Repeat("x", size-1) + "\n" }
	want := x(50000) + x(50000) + strings.Repeat(x(16384), 4) + x(16385) + "unfinished\nlast"
	if out != want || errs != "error\n" || partial < 6 {
		t.Errorf("%d bytes in %d parts, want %d; stderr %q", len(out), partial, len(want), errs)
	}
	for line := range strings.Lines(n.Log(p, c)) {
		if len(line) > 16384+64 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

// reopen: without a rename nothing is lost either.
func reopen(t *testing.T, n *Node) {
	p := n.PodConfig()
	pod := n.RunPod(p)
	c := n.ContainerConfig("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.05; done")
	id := n.Started(pod, p, c)
	for range 5 {
		if _, err := n.Runtime.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
	}
	n.Exited(id, settle)
	if out, _, _ := content(t, n.Log(p, c)); out != "1\n2\n3\n4\n5\n6\n7\n8\n9\n" {
		t.Errorf("the log is %q", out)
	}
}
