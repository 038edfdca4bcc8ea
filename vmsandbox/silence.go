package vmsandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// quiet measures for how long a process has had nothing to do, while an answer of it is
// awaited. Time in which it computed, waited for a processor or for a disk does not count,
// nor that in which this process itself did not get to look.
type quiet struct {
	pid    int
	last   time.Time
	demand time.Duration
	sum    time.Duration
}

func newSilence(pid int) *quiet {
	return &quiet{pid: pid, last: time.Now(), demand: demand(pid)}
}

// idle is the sum so far; it is to be called every sampleInterval.
func (q *quiet) idle(now time.Time) time.Duration {
	passed, used := now.Sub(q.last), demand(q.pid)
	late := passed > 3*sampleInterval
	if !late && used-q.demand < passed/4 && !wants(q.pid) {
		q.sum += passed
	}
	q.last, q.demand = now, used
	return q.sum
}

// demand is how much processor time a process has used or waited for, over all its threads.
func demand(pid int) time.Duration {
	var sum int64
	for _, content := range threads(pid, "schedstat") {
		fields := bytes.Fields(content)
		for _, field := range fields[:min(2, len(fields))] {
			n, _ := strconv.ParseInt(string(field), 10, 64)
			sum += n
		}
	}
	return time.Duration(sum)
}

// wants says whether a thread runs, is about to, or waits for a disk: time in a queue is
// counted only when it is over.
func wants(pid int) bool {
	for _, content := range threads(pid, "stat") {
		// The name in parentheses may hold anything; the state follows the last of them.
		rest := bytes.Fields(content[bytes.LastIndexByte(content, ')')+1:])
		if len(rest) > 0 && (rest[0][0] == 'R' || rest[0][0] == 'D') {
			return true
		}
	}
	return false
}

func threads(pid int, file string) (contents [][]byte) {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/" + file) // the pattern is good
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil {
			contents = append(contents, content)
		}
	}
	return contents
}
