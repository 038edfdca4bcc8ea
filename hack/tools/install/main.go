// Install builds tools of other projects and links them into a directory:
//
//	go run ./hack/tools/install --to bin crictl runc
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"

	"github.com/cricket-cri/cricket/hack/tools"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "install:", err)
		os.Exit(1)
	}
}

func run() error {
	to := flag.String("to", "bin", "directory for the programs")
	cache := flag.String("cache", ".cache", "directory that keeps what was built")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	known := map[string]tools.Tool{}
	for _, t := range slices.Concat([]tools.Tool{tools.Crictl(), tools.Runc(), tools.Linter()}, tools.Containerd(), tools.Cluster(),
		[]tools.Tool{tools.EndToEnd(), tools.Ginkgo(), tools.Collector(".")}, tools.Prometheus()) {
		known[t.Name] = t
	}
	b := tools.Builder{Cache: *cache, Say: func(f string, a ...any) { fmt.Printf(f+"\n", a...) }}
	for _, name := range flag.Args() {
		t, ok := known[name]
		if !ok {
			return fmt.Errorf("no tool is called %q", name)
		}
		path, err := b.Build(ctx, t)
		if err != nil {
			return err
		}
		if err := link(path, filepath.Join(*to, name)); err != nil {
			return err
		}
	}
	return nil
}

// link makes dst another name of src, or a copy of it where that cannot be.
func link(src, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	if same(src, dst) {
		return nil
	}
	tmp := dst + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Link(src, tmp); err != nil {
		data, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		if err := os.WriteFile(tmp, data, 0o755); err != nil {
			return err
		}
	}
	return os.Rename(tmp, dst)
}

// same tells whether two names are one file: renaming one to the other would do nothing.
func same(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}
