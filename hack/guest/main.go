// Guest builds what the virtual machines of pods boot:
//
//	go run ./hack/guest image     bin/guest/{vmlinux,initrd,manifest.json}
//	go run ./hack/guest kernel    bin/guest/{vmlinux-small,initrd-small}
//
// The kernel and its modules are those of Debian's package, fetched with the machine's
// own apt; the small kernel is built from Debian's source with kernel.config. The initial
// RAM file system holds cricket-guest and, for Debian's kernel, the modules. What was
// fetched and built is kept in .cache/guest, and the same input gives the same bytes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// builder is one run of this program.
type builder struct {
	root  string // of the source tree
	out   string
	cache string
	quiet bool
}

func run() error {
	b := builder{}
	flag.StringVar(&b.root, "root", ".", "top `directory` of Cricket's source")
	flag.StringVar(&b.out, "out", "bin/guest", "`directory` for the result, below the root")
	flag.StringVar(&b.cache, "cache", ".cache/guest", "`directory` that keeps packages and what was built, below the root")
	flag.BoolVar(&b.quiet, "quiet", false, "say nothing if all goes well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root, err := filepath.Abs(b.root)
	if err != nil {
		return err
	}
	b.root, b.out, b.cache = root, filepath.Join(root, b.out), filepath.Join(root, b.cache)
	for _, dir := range []string{b.out, b.cache} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	switch flag.Arg(0) {
	case "image":
		return b.image(ctx)
	case "kernel":
		return b.kernel(ctx)
	}
	return fmt.Errorf("unknown argument %q: image or kernel", flag.Arg(0))
}

func (b *builder) say(format string, args ...any) {
	if !b.quiet {
		fmt.Printf("guest: "+format+"\n", args...)
	}
}

// lock keeps a second run out of the cache; the end of the process lifts it.
func (b *builder) lock(name string) error {
	f, err := os.OpenFile(filepath.Join(b.cache, name), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Flock(int(f.Fd()), unix.LOCK_EX)
}
