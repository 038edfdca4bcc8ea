package vmsandbox

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
)

// The names in a container's directory.
const (
	recordFile  = "record.json"
	processFile = "process.json"
)

// containerRecord is what a container has of its pod's machine, and what is known of it
// when the machine is gone.
type containerRecord struct {
	// Images are the keys of the image disks that it uses, Slot the disk of its writable
	// layer.
	Images []string `json:"images,omitempty"`
	Slot   string   `json:"slot,omitempty"`
	// Memory is its limit in bytes, 0 without one.
	Memory   int64 `json:"memory,omitempty"`
	Mirrored bool  `json:"mirrored,omitempty"`
	// Name is what the guest calls it, if that is something else; Held says that it has been
	// restored and not been started since: it is frozen in the guest.
	Name string `json:"name,omitempty"`
	Held bool   `json:"held,omitempty"`
	// Created says that the container is whole.
	Created   bool          `json:"created,omitempty"`
	StartedAt time.Time     `json:"startedAt,omitzero"`
	Exit      *runtime.Exit `json:"exit,omitempty"`
}

func (r containerRecord) exited() bool { return r.Exit != nil }

// record is empty if nothing is known.
func (c *container) record() containerRecord {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.readRecord()
}

func (c *container) readRecord() containerRecord {
	var r containerRecord
	if err := readJSON(c.dir(recordFile), &r); err != nil && !errors.Is(err, os.ErrNotExist) {
		c.pod.driver.opts.Log.Warn("record of container cannot be read", "container", c.id, "error", err)
		return containerRecord{}
	}
	return r
}

// note changes the record. A container that is being removed is not recorded again.
func (c *container) note(f func(*containerRecord)) error {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if _, err := os.Lstat(c.dir()); err != nil {
		return fmt.Errorf("record container: %w: %w", errdefs.ErrNotFound, err)
	}
	r := c.readRecord()
	f(&r)
	return writeJSON(c.dir(recordFile), r)
}

// noteExit remembers how the container ended; what was known first stays.
func (c *container) noteExit(e runtime.Exit) runtime.Exit {
	err := c.note(func(r *containerRecord) {
		if r.Exit == nil {
			r.Exit = &e
		}
		e = *r.Exit
	})
	if err != nil && !errdefs.IsNotFound(err) {
		c.pod.driver.opts.Log.Warn("exit of container is not recorded", "container", c.id, "error", err)
	}
	return e
}

// lost is how a container ended that its machine took along.
func (c *container) lost() runtime.Exit {
	at, _ := c.pod.ended()
	return c.noteExit(runtime.Exit{Code: -1, At: at, Unknown: true})
}

// name is what the guest calls the container: one that was restored keeps its name there.
func (c *container) name() string { return cmp.Or(c.record().Name, c.id) }

// process is the container's own process: what others in it inherit.
func (c *container) process() (p specs.Process, err error) {
	return p, readJSON(c.dir(processFile), &p)
}
