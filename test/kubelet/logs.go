package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cricket-cri/cricket/test/harness"
)

// logLine is the form of a container's log: time, stream, whether the line is whole, text.
var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)$`)

// logs looks at the files, at the links for log collectors, and asks the kubelet.
func (n *node) logs(ctx context.Context) error {
	var errs []error
	restarts := n.pod.container("app").RestartCount
	for name, restarts := range map[string]int{"init": 0, "app": restarts, "web": 0} {
		file := filepath.Join(n.logDir(), name, strconv.Itoa(restarts)+".log")
		if _, err := os.Stat(file); err != nil {
			errs = append(errs, err)
		}
		links, err := filepath.Glob("/var/log/containers/" + podName + "_default_" + name + "-*.log")
		if err != nil || len(links) == 0 {
			errs = append(errs, fmt.Errorf("no link to the log of container %s", name))
		}
	}
	lines, err := readLog(filepath.Join(n.logDir(), "app", strconv.Itoa(restarts)+".log"))
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	if want := (line{"stderr", "init said ready"}); !slices.Contains(lines, want) {
		errs = append(errs, fmt.Errorf("the log of container app lacks %v", want))
	}
	tail, err := n.kubelet.request(ctx, "GET", "/containerLogs/default/"+podName+"/app?tailLines=3")
	if got := strings.Fields(string(tail)); err != nil || len(got) != 3 || !consecutive(got) {
		errs = append(errs, fmt.Errorf("the kubelet's last three lines are %q (%w)", tail, err))
	}
	previous, err := n.kubelet.request(ctx, "GET", "/containerLogs/default/"+podName+"/app?previous=true&limitBytes=30")
	if err != nil || len(previous) != 30 {
		errs = append(errs, fmt.Errorf("the beginning of the last container's log is %q (%w)", previous, err))
	}
	return errors.Join(errs...)
}

// rotates waits for more rotations than the kubelet keeps files for.
func (n *node) rotates(ctx context.Context) error {
	log := filepath.Join(n.logDir(), "app", strconv.Itoa(n.pod.container("app").RestartCount)+".log")
	seen := map[string]bool{}
	var files []string
	err := harness.Until(ctx, 2*time.Minute, func(ctx context.Context) (err error) {
		if files, err = filepath.Glob(log + "*"); err != nil {
			return err
		}
		for _, f := range files {
			seen[strings.TrimSuffix(strings.TrimSuffix(f, ".tmp"), ".gz")] = true
		}
		if len(seen) < logMaxFiles+2 {
			return fmt.Errorf("saw the files %q", files)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(files) > logMaxFiles+1 {
		return fmt.Errorf("the files are %q, want at most %d", files, logMaxFiles)
	}
	// The newest rotated file, not yet packed, goes on in the current one.
	slices.Sort(files)
	var numbers []string
	for _, f := range append(files[1:], files[0]) {
		lines, err := readLog(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // the kubelet has packed it meanwhile
		}
		if err != nil {
			return err
		}
		for _, l := range lines {
			if l.stream == "stdout" {
				numbers = append(numbers, l.text)
			}
		}
	}
	if len(numbers) == 0 || !consecutive(numbers) {
		return fmt.Errorf("the logs %q have gaps", files)
	}
	return nil
}

type line struct{ stream, text string }

// readLog reads a log, unpacking it if need be. Its last line may be in the making, and a
// log that has just been opened anew is empty.
func readLog(path string) ([]line, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(path, ".gz") {
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		if data, err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	var lines []line
	for text := range strings.Lines(string(data)) {
		whole, found := strings.CutSuffix(text, "\n")
		if !found {
			break
		}
		m := logLine.FindStringSubmatch(whole)
		if m == nil {
			return nil, fmt.Errorf("%s: the form of %q is wrong", path, whole)
		}
		lines = append(lines, line{m[1], m[3]})
	}
	return lines, nil
}

// consecutive tells whether the texts are numbers that count up by one.
func consecutive(texts []string) bool {
	for i, t := range texts {
		if got, err := strconv.Atoi(t); err != nil {
			return false
		} else if i > 0 && strconv.Itoa(got-1) != texts[i-1] {
			return false
		}
	}
	return len(texts) > 0
}
