package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/images"
	"github.com/cricket-cri/cricket/test/specs"
)

// tailLines is how much of the daemon's log is shown when something failed.
const tailLines = 60

// inside runs the suite in the node.
func inside(ctx context.Context, o options) (int, error) {
	set, err := images.Open(os.Getenv(imagesEnv))
	if err != nil {
		return 1, err
	}
	server, address, err := images.NewRegistry(set).Serve("127.0.0.1:0")
	if err != nil {
		return 1, err
	}
	defer server.Close()
	paths, err := harness.MakePaths(filepath.Join(harness.Dir(), "run"), address)
	if err != nil {
		return 1, err
	}
	if err := os.MkdirAll(o.reports, 0o755); err != nil {
		return 1, err
	}
	// The log stays when the node is gone.
	paths.Log, err = filepath.Abs(filepath.Join(o.reports, o.name()+".log"))
	if err != nil {
		return 1, err
	}
	if err := os.RemoveAll(paths.Log); err != nil {
		return 1, err
	}
	start, err := o.starter()
	if err != nil {
		return 1, err
	}
	d := harness.NewDaemon(paths, start)
	if err := d.Start(ctx); err != nil {
		showTail(paths.Log)
		return 1, err
	}
	defer d.Kill()
	if o.shell != "" {
		return shell(ctx, o.shell, paths)
	}
	total, err := runs(ctx, o, d)
	if err != nil || total.failed > 0 {
		showTail(paths.Log)
	}
	fmt.Println(total)
	if total.failed > 0 || total.passed == 0 {
		return 1, err
	}
	return 0, err
}

// runs runs the suite as often as asked, each time looking for leaks.
func runs(ctx context.Context, o options, d *harness.Daemon) (result, error) {
	var total result
	if err := d.WarmUp(ctx); err != nil {
		return result{failed: 1}, fmt.Errorf("run a first pod: %w", err)
	}
	for i := range o.repeat {
		before, err := o.observe(ctx, d)
		if err != nil {
			return total, err
		}
		r, err := once(ctx, o, "unix://"+d.Paths.Socket, harness.Dir())
		if err != nil {
			return total, err
		}
		fmt.Printf("critest, run %d of %d: %s\n", i+1, o.repeat, r)
		leaks, err := o.left(ctx, before, d)
		if err != nil {
			return total, err
		}
		if len(leaks) > 0 {
			r.failed++
			fmt.Printf("FAILED the runtime left %d things behind:\n  %s\n", len(leaks), strings.Join(leaks, "\n  "))
		} else {
			r.passed++
			fmt.Println("nothing is left behind")
		}
		total.add(r)
	}
	return total, nil
}

// once runs critest against an endpoint, in a directory for its files, and judges its
// report.
func once(ctx context.Context, o options, endpoint, dir string) (result, error) {
	report := filepath.Join(dir, "report.json")
	output, err := os.Create(filepath.Join(o.reports, o.name()+"-critest.txt"))
	if err != nil {
		return result{}, err
	}
	defer output.Close()
	c := exec.CommandContext(ctx, os.Getenv(critestEnv), o.flags(endpoint, report)...)
	c.Stdout, c.Stderr, c.Dir = output, output, dir
	began := time.Now()
	runErr := c.Run()
	fmt.Printf("critest ran for %s, its output is in %s\n", time.Since(began).Round(time.Second), output.Name())
	all, err := specs.Read(report)
	if err != nil {
		return result{}, errors.Join(err, runErr)
	}
	data, err := os.ReadFile(report)
	if err == nil {
		err = os.WriteFile(filepath.Join(o.reports, o.name()+"-critest.json"), data, 0o644)
	}
	if err != nil {
		return result{}, err
	}
	return judge(all, o.focus != "" || o.skip != "", o.refusals())
}

// flags are critest's.
func (o options) flags(endpoint, report string) []string {
	flags := []string{
		"--runtime-endpoint", endpoint, "--image-endpoint", endpoint,
		"--ginkgo.json-report", report, "--ginkgo.no-color", "--runtime-handler", o.handler(),
	}
	if o.asPlugin() {
		flags = append(flags, "--nri-socket", nriSocket)
	}
	if o.focus != "" {
		flags = append(flags, "--ginkgo.focus", o.focus)
	}
	if o.skip != "" {
		flags = append(flags, "--ginkgo.skip", o.skip)
	}
	return flags
}

// settle is how long the runtime may take to clear up after the last spec.
const settle = 5 * time.Second

// left removes what the suite leaves (some images, pods of specs that failed, and mounts
// that refused specs made for themselves) and lists what the runtime has more than before.
func (o options) left(ctx context.Context, before harness.Snapshot, d *harness.Daemon) (leaks []string, err error) {
	if err := errors.Join(d.RemovePods(ctx), d.RemoveImages(ctx)); err != nil {
		return nil, fmt.Errorf("remove what the suite left: %w", err)
	}
	if o.hull == hullVM {
		if err := unmountSpecs(os.TempDir()); err != nil {
			return nil, err
		}
	}
	err = o.quietly(ctx, d, func() error {
		for deadline := time.Now().Add(settle); ; time.Sleep(200 * time.Millisecond) {
			after, err := harness.Observe(d.Paths.Leases)
			if err != nil {
				return err
			}
			leaks = before.Leaks(after)
			if len(leaks) == 0 || time.Now().After(deadline) {
				return nil
			}
		}
	})
	return leaks, err
}

// observe takes a snapshot before a run.
func (o options) observe(ctx context.Context, d *harness.Daemon) (s harness.Snapshot, err error) {
	err = o.quietly(ctx, d, func() error {
		s, err = harness.Observe(d.Paths.Leases)
		return err
	})
	return s, err
}

// quietly calls f while cricketd is stopped, which then has removed the virtual machines
// that it keeps ready for pods, whatever hull the pods have.
func (o options) quietly(ctx context.Context, d *harness.Daemon, f func() error) error {
	if o.runtime != "cricket" {
		return f()
	}
	if err := d.Stop(); err != nil {
		return err
	}
	return errors.Join(f(), d.Start(ctx))
}

// unmountSpecs unmounts what specs that the runtime refuses have left mounted in the
// directory for temporary files: they clean up only after a container has started.
func unmountSpecs(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range mounts {
		rel, err := filepath.Rel(dir, m.Mountpoint)
		if err != nil || !specMount.MatchString(rel) {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount what a spec left at %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// specMount is where the specs of propagation bind a directory of theirs to itself.
var specMount = regexp.MustCompile(`^test[0-9a-f]+/mnt$`)

func showTail(path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	fmt.Printf("the end of %s:\n%s\n", path, bytes.Join(lines[max(0, len(lines)-tailLines):], []byte("\n")))
}

// shell runs a command in the node, with crictl on the PATH and pointed at the runtime.
func shell(ctx context.Context, command string, p harness.Paths) (int, error) {
	endpoint := "unix://" + p.Socket
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.Env = append(os.Environ(), "CONTAINER_RUNTIME_ENDPOINT="+endpoint, "IMAGE_SERVICE_ENDPOINT="+endpoint)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
