package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/cricket-cri/cricket/cri/config"
)

// grade is what a finding means for pods.
type grade string

const (
	good    grade = "ok"
	limited grade = "limited" // pods run, something is missing
	failed  grade = "FAILED"  // pods do not run
)

// finding is what one examination found.
type finding struct {
	Name   string `json:"name"`
	Grade  grade  `json:"grade"`
	Detail string `json:"detail,omitempty"` // what was found
	Lacks  string `json:"lacks,omitempty"`  // what pods will not have
	Fix    string `json:"fix,omitempty"`    // a command, or what to do
}

func ok(name, format string, args ...any) finding {
	return finding{Name: name, Grade: good, Detail: fmt.Sprintf(format, args...)}
}

// host is what is examined.
type host struct {
	config config.Config
	// reprobe: whether KVM works is found out anew.
	reprobe bool
}

// examinations are in the order in which they are shown.
func (h host) examinations() []func(context.Context) []finding {
	return []func(context.Context) []finding{
		h.privileges, h.kernel, h.cgroups, h.namespaces, h.userNamespaces,
		h.overlay, h.quota, h.erofs, h.seccomp, h.modules, h.runtimes, h.checkpoints, h.network, h.accelerator, h.limits,
	}
}

func check(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("cricket check", flag.ContinueOnError)
	flags := config.Bind(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	reprobe := fs.Bool("reprobe", false, "boot a virtual machine to find out anew whether KVM works; the monitor must run")
	if err := fs.Parse(args); err != nil {
		return err
	}
	c, err := flags.Config()
	if err != nil {
		return err
	}
	var found []finding
	for _, examine := range (host{c, *reprobe}).examinations() {
		found = append(found, examine(ctx)...)
	}
	if *asJSON {
		err = printJSON(out, found)
	} else {
		err = printTable(out, found)
	}
	for _, f := range found {
		if f.Grade == failed {
			err = errors.Join(err, errQuiet)
		}
	}
	return err
}

func printJSON(out io.Writer, found []finding) error { return encodeJSON(out, found) }

func encodeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printTable(out io.Writer, found []finding) error {
	for _, f := range found {
		if _, err := fmt.Fprintf(out, "%-8s %-18s %s\n", f.Grade, f.Name, f.Detail); err != nil {
			return err
		}
		if f.Lacks != "" {
			fmt.Fprintf(out, "%28s%s\n", "", "missing: "+f.Lacks)
		}
		if f.Fix != "" {
			fmt.Fprintf(out, "%28s%s\n", "", "to do:   "+f.Fix)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
