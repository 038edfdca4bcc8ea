package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cricket-cri/cricket/runtime"
)

// testManyExecs runs processes beside each other, each with streams of its own.
func testManyExecs(t *testing.T, h *Hull) {
	s := h.pod(t)
	live := start(t, s, h.shell(t, "one", idle))
	const n = 10
	failed := make(chan error, n)
	for i := range n {
		ctx := limited(t)
		go func() {
			input := strings.Repeat(fmt.Sprintf("line %d\n", i), 50_000)
			got := &bytes.Buffer{}
			exit, err := live.Exec(ctx, runtime.ExecConfig{
				Args:    []string{"sh", "-c", fmt.Sprintf("cat; exit %d", i)},
				Streams: runtime.Streams{Stdin: strings.NewReader(input), Stdout: got},
			})
			if err == nil && (exit.Code != int32(i) || got.String() != input) {
				err = fmt.Errorf("exec %d: %+v and %d of %d bytes", i, exit, got.Len(), len(input))
			}
			failed <- err
		}()
	}
	for range n {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// testLongLines is about lines that do not fit into one of the log, and a last one that
// does not end.
func testLongLines(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "one", "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end'")
	if _, exit := h.run(t, s, c); exit.Code != 0 {
		t.Errorf("exit: %+v", exit)
	}
	var whole strings.Builder
	var tags []string
	for line := range strings.Lines(logged(t, c.LogPath)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		tags = append(tags, fields[1])
		whole.WriteString(fields[2])
		if fields[1] == "F" {
			whole.WriteString("\n")
		}
	}
	all := strings.Join(tags, "")
	if got := strings.TrimSuffix(whole.String(), "\n"); got != strings.Repeat("x", 40000)+"\nno end" || !strings.HasPrefix(all, "PPF") {
		t.Errorf("%d bytes with the tags %s", len(got), all)
	}
}

// testAttachAgain leaves a container and comes back to it.
func testAttachAgain(t *testing.T, h *Hull) {
	s := h.pod(t)
	c := h.shell(t, "one", "while read -r line; do echo got $line; done; echo end")
	c.Stdin = true
	live := start(t, s, c)
	for i := range 3 {
		if got := typed(t, live, fmt.Sprintf("%d\n", i), 6); got != fmt.Sprintf("got %d\n", i) {
			t.Errorf("attached for the %d. time: %q", i+1, got)
		}
	}
	// A log may lag behind until its container has ended.
	eventually(t, func() bool { return logged(t, c.LogPath) == "stdout F got 0\nstdout F got 1\nstdout F got 2\n" })

	c = h.shell(t, "terminal", "read -r x; for i in 1 2 3 4 5 6 7 8 9; do case $(stty size) in '45 123') break;; esac; sleep 0.2; done; stty size")
	c.Terminal, c.Stdin = true, true
	live = start(t, s, c)
	var shown bytes.Buffer
	sizes := make(chan runtime.Size, 1)
	sizes <- runtime.Size{Width: 123, Height: 45}
	err := live.Attach(limited(t), runtime.Streams{Terminal: true, Stdin: strings.NewReader("go\n"), Stdout: &shown, Resize: sizes})
	if err != nil || !strings.Contains(shown.String(), "45 123\r\n") {
		t.Errorf("size of the terminal: %q, %v", shown.String(), err)
	}
}

// typed attaches, types, reads n bytes, and goes.
func typed(t *testing.T, c runtime.Container, text string, n int) string {
	t.Helper()
	ctx, leave := context.WithCancel(limited(t))
	read, out := io.Pipe()
	in, keys := io.Pipe()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = c.Attach(ctx, runtime.Streams{Stdin: in, Stdout: out})
		_ = out.Close()
	}()
	go func() { _, _ = io.WriteString(keys, text) }()
	buffer := make([]byte, n)
	got, _ := io.ReadFull(read, buffer)
	leave()
	_ = read.Close()
	<-left
	_ = in.Close()
	return string(buffer[:got])
}
