package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// seldom is how often a step is told where lines stay.
const seldom = 30 * time.Second

// progress tells what goes on: on a terminal in one line that changes, elsewhere a line for
// each section and, where that takes long, now and then one for a step. It is safe for
// concurrent use.
type progress struct {
	to       *os.File
	terminal bool

	mu    sync.Mutex
	title string
	told  time.Time
}

func newProgress(to *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(to.Fd()), unix.TCGETS)
	return &progress{to: to, terminal: err == nil}
}

// clear empties the terminal's line.
const clear = "\r\x1b[K"

// section begins a section.
func (p *progress) section(title string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.title, p.told = title, time.Now()
	if !p.terminal {
		fmt.Fprintln(p.to, title)
	}
}

// step tells where in the section the run is.
func (p *progress) step(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprintf(p.to, clear+p.title+": "+format, a...)
	} else if p.title != "" && time.Since(p.told) > seldom {
		fmt.Fprintf(p.to, p.title+": "+format+"\n", a...)
		p.told = time.Now()
	}
}

// say tells something that is to stay.
func (p *progress) say(format string, a ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.to, clear)
	}
	fmt.Fprintf(p.to, format+"\n", a...)
}

// end leaves the terminal's line empty.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.to, clear)
	}
}
