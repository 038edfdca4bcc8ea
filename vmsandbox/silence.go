package vmsandbox

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// quiet measures what a process does while an answer of it is awaited.
type quiet struct {
	pid         int
	began, last time.Time
	first, then demand
	// idle is for how long it has had nothing to do without a break. One that computes, waits
	// for a processor, which limits may withhold, or for a disk is not idle; time in which
	// this process itself did not get to look does not count.
	idle time.Duration
}

func newSilence(pid int) *quiet {
	now, d := time.Now(), demandOf(pid)
	return &quiet{pid: pid, began: now, last: now, first: d, then: d}
}

// look is to be called every sampleInterval.
func (q *quiet) look(now time.Time) {
	passed, d := now.Sub(q.last), demandOf(q.pid)
	switch late := passed > 3*sampleInterval; {
	case d.used+d.waited-q.then.used-q.then.waited >= passed/4 || wants(q.pid):
		q.idle = 0
	case !late:
		q.idle += passed
	}
	q.last, q.then = now, d
}

// busy is for how long it has computed, at most by the clock.
func (q *quiet) busy() time.Duration {
	return min(q.then.used-q.first.used, q.last.Sub(q.began))
}

// demand is how much processor time a process has used and waited for, over all its threads.
type demand struct{ used, waited time.Duration }

func demandOf(pid int) (d demand) {
	for _, content := range threads(pid, "schedstat") {
		fields := bytes.Fields(content)
		if len(fields) < 2 {
			continue
		}
		used, _ := strconv.ParseInt(string(fields[0]), 10, 64)
		waited, _ := strconv.ParseInt(string(fields[1]), 10, 64)
		d.used, d.waited = d.used+time.Duration(used), d.waited+time.Duration(waited)
	}
	return d
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
