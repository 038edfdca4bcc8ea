// Command node runs Cricket on the kind of machine that most users have: a Debian
// node with systemd as PID 1, cgroup v2 and AppArmor, in QEMU under TCG.
//
// The node is built from Debian packages with mmdebstrap, once, and kept in the
// cache. Every scenario boots it on a copy-on-write disk of its own, with the freshly
// built binaries on a second disk, and tells it on the kernel command line what to
// do. Results come back through a virtio-serial port.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	var (
		cache    = flag.String("cache", ".cache/node", "directory for the node's image and the runs' disks")
		bin      = flag.String("bin", "bin", "directory of the binaries to test")
		tools    = flag.String("tools", ".cache", "directory that keeps built programs and images")
		bundle   = flag.String("bundle", ".cache/bundle", "what test/critest --bundle made: tools and test images")
		only     = flag.String("only", "", "run only scenarios whose name contains this")
		list     = flag.Bool("list", false, "list the scenarios")
		deadline = flag.Duration("timeout", 60*time.Minute, "per scenario")
	)
	flag.Parse()
	if *list {
		for _, s := range scenarios() {
			fmt.Printf("%-24s %s\n", s.name, s.what)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lab := &lab{cache: *cache, bin: *bin, tools: *tools, bundle: *bundle, deadline: *deadline}
	if err := run(ctx, lab, *only); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

// run does the scenarios one after the other and prints one line each.
func run(ctx context.Context, l *lab, only string) error {
	if err := l.prepare(ctx); err != nil {
		return fmt.Errorf("prepare the node: %w", err)
	}
	passed, failed := 0, 0
	for _, s := range scenarios() {
		if !strings.Contains(s.name, only) {
			continue
		}
		began := time.Now()
		err := l.scenario(ctx, s)
		took := time.Since(began).Round(time.Second)
		if err != nil {
			failed++
			fmt.Printf("FAIL %s (%s): %v\n", s.name, took, err)
			continue
		}
		passed++
		fmt.Printf("ok   %s (%s)\n", s.name, took)
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		return errors.New("not every scenario passed")
	}
	return nil
}

// lab knows where the parts of a node are.
type lab struct {
	cache, bin, tools, bundle string
	deadline                  time.Duration

	kernel, initrd, disk string // set by prepare
	payload              string
}

// scenario gives s a fresh disk and a directory for its logs.
func (l *lab) scenario(ctx context.Context, s scenario) error {
	ctx, cancel := context.WithTimeout(ctx, l.deadline)
	defer cancel()
	dir := filepath.Join(l.cache, "runs", s.name)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	m := &machine{lab: l, dir: dir, disk: filepath.Join(dir, "disk.qcow2")}
	if err := m.newDisk(ctx); err != nil {
		return err
	}
	defer os.Remove(m.disk)
	return s.run(ctx, m)
}
