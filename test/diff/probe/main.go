// Probe says what a process sees of the world that it was put into, as one JSON object of
// names and texts on one line of its output:
//
//	probe            prints it, and ends with 0 after the first signal, which it prints
//	probe now        prints it and ends
//	probe file PATH  writes it to a file and ends
//	probe tree       prints what the root file system holds, and ends
//
// It is a static program and looks at nothing but its own process, so that it means the
// same in every container. What cannot be read is said to be an error, never left out.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Document is what was seen: dotted names and texts.
type document map[string]string

func main() {
	// Before anything else: a signal may come as soon as the document is out. SIGURG is
	// the Go runtime's own.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals)
	signal.Reset(unix.SIGURG, unix.SIGCHLD)
	how := ""
	if len(os.Args) > 1 {
		how = os.Args[1]
	}
	var d document
	var err error
	if how == "tree" {
		d, err = tree()
	} else {
		d = look()
	}
	if err != nil {
		fail(err)
	}
	data, err := json.Marshal(d)
	if err != nil {
		fail(err)
	}
	data = append(data, '\n')
	switch {
	case len(os.Args) > 2 && how == "file":
		if err := os.WriteFile(os.Args[2], data, 0o644); err != nil {
			fail(err)
		}
	case how == "now" || how == "tree":
		print(data)
	default:
		print(data)
		s := <-signals
		print(fmt.Appendf(nil, "signal %s\n", unix.SignalName(s.(syscall.Signal))))
	}
}

func print(data []byte) {
	if _, err := os.Stdout.Write(data); err != nil {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "probe:", err)
	os.Exit(1)
}

func look() document {
	d := document{}
	for _, part := range []func(document){
		process, credentials, limits, environment, mounts, devices, files, settings, paths, cgroups, namespaces, links, syscalls,
	} {
		part(d)
	}
	return d
}

// set keeps a text, or the error that stands in its place.
func (d document) set(name, text string, err error) {
	if err != nil {
		text = "error " + kind(err)
	}
	d[name] = text
}

// kind is an error by its number's name, without the words around it.
func kind(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return unix.ErrnoName(number)
	}
	return err.Error()
}
