// Cribench measures container runtimes through the CRI, and through nothing else, so that
// any of them can be measured, several side by side in one run:
//
//	cribench --endpoint cricket=unix:///run/cricket/cricket.sock \
//	         --endpoint containerd=unix:///run/containerd/containerd.sock \
//	         --processes cricket=cricketd,cricket-monitor \
//	         --processes containerd=containerd,containerd-shim-runc-v2 \
//	         --measure start,exec,parallel,list,memory
//
// One runtime may be measured with several of its handlers, an endpoint for each. What is
// measured is told by --help, a section each; what a section does is told where it is written.
// A pod has one container and is led as the kubelet would lead it; every call is timed.
//
// Endpoints take turns, round by round, so that what else the machine does meets all alike.
// Three kinds of section are measured in one block for each endpoint: lists and memory,
// because they see all pods of a daemon, that may be behind two endpoints; the restart, because
// it is the whole daemon's; and the churn, because work that is put off is to come back to
// whoever put it off. With --blocks the sequential starts are too, for runtimes that prepare
// pods while nothing is asked of them: in turns these would have the others' time for it.
//
// Pods carry a label of the run. When it ends, also by Ctrl-C or a failure, those that carry
// it are removed, and the images that it pulled; nothing else is touched.
//
// For what goes through a container's files, network and streams, this program is mounted into
// the pod: it has to be a static one, on the same machine as the runtime.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the clean-up too
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cribench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) > 0 && args[0] == "probe" {
		return probe(args[1:], out)
	}
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	expected, err := o.expectations()
	if err != nil {
		return err
	}
	var result *figures.Run
	if o.from != "" {
		result, err = readRun(o.from)
	} else {
		result, err = measure(ctx, o, args)
	}
	if result == nil {
		return err
	}
	return errors.Join(err, o.write(out, result, expected))
}

// measure makes a run. What was measured until an error is returned beside it.
func measure(ctx context.Context, o options, args []string) (result *figures.Run, err error) {
	result = &figures.Run{Date: time.Now().UTC().Truncate(time.Second), Command: append([]string{"cribench"}, args...)}
	result.Host, err = lookAtHost(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{o: o, progress: newProgress(os.Stderr)}
	defer s.progress.end()
	id := fmt.Sprintf("%d-%x", os.Getpid(), time.Now().UnixNano())
	for i, e := range o.endpoints {
		b, err := newBench(ctx, e, o, fmt.Sprintf("%s-%d", id, i))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", e.name, err), s.close())
		}
		s.benches = append(s.benches, b)
		result.Endpoints = append(result.Endpoints, b.result)
	}
	defer func() {
		if closeErr := s.close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", closeErr))
		}
	}()
	err = s.run(ctx)
	after, hostErr := lookAtHost(context.WithoutCancel(ctx))
	result.Host.Load[1], result.Host.Fork[1] = after.Load[0], after.Fork[0]
	if ctx.Err() != nil {
		for _, e := range result.Endpoints {
			e.Errors = append(e.Errors, s.section+" and what comes after it: the run was ended")
		}
	}
	if err = errors.Join(err, hostErr); err != nil {
		return result, err
	}
	for _, e := range result.Endpoints {
		if len(e.Errors) > 0 {
			return result, errors.New("not all was measured; see the end of the table")
		}
	}
	return result, nil
}

// readRun reads a run that --json wrote.
func readRun(path string) (*figures.Run, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return figures.Read(f)
}

// session is a run under way.
type session struct {
	o        options
	benches  []*bench
	progress *progress
	section  string
	failed   []*bench // in this section
}

// run runs the chosen sections.
func (s *session) run(ctx context.Context) error {
	chosen := slices.DeleteFunc(sections(), func(c section) bool { return !slices.Contains(s.o.measure, c.name) })
	for i, c := range chosen {
		s.section, s.failed = c.name, nil
		s.progress.section(fmt.Sprintf("[%d/%d] %s", i+1, len(chosen), c.name))
		for _, b := range s.benches {
			if c.lacks == nil {
				continue
			}
			if why := c.lacks(s.o, b.endpoint); why != "" {
				s.failed = append(s.failed, b)
				s.progress.say("%s: not measured: %s", b.endpoint.name, why)
			}
		}
		if err := c.run(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// each calls f for every endpoint in turn. One that fails is left out for the rest of the
// section, and the error is kept; each itself fails only when the run is to end.
func (s *session) each(ctx context.Context, what string, f func(*bench) error) error {
	for _, b := range s.benches {
		if slices.Contains(s.failed, b) {
			continue
		}
		s.progress.step("%s, %s", b.endpoint.name, what)
		err := f(b)
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", s.section, ctx.Err())
		}
		if err != nil {
			s.failed = append(s.failed, b)
			b.result.Errors = append(b.result.Errors, brief(s.section+": "+err.Error()))
			s.progress.say("%s: %s", b.endpoint.name, brief(err.Error()))
		}
	}
	return nil
}

// mostOfError is how much of an error is kept: some name every pod.
const mostOfError = 300

func brief(s string) string {
	if len(s) > mostOfError {
		return s[:mostOfError] + "…"
	}
	return s
}

// turns calls f n times for every endpoint, in turns.
func (s *session) turns(ctx context.Context, n int, f func(b *bench, turn int) error) error {
	for turn := range n {
		err := s.each(ctx, fmt.Sprintf("%d of %d", turn+1, n), func(b *bench) error { return f(b, turn) })
		if err != nil {
			return err
		}
	}
	return nil
}

// close removes what the run made, of all endpoints.
func (s *session) close() error {
	errs := make([]error, 0, len(s.benches))
	for _, b := range s.benches {
		s.progress.step("%s: clean up", b.endpoint.name)
		if err := b.close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.endpoint.name, err))
		}
	}
	return errors.Join(errs...)
}
