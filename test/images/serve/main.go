// Serve makes the test images and serves them as a registry in the foreground:
//
//	go run ./test/images/serve --listen 127.0.0.1:5055
//
// A runtime that takes http://127.0.0.1:5055 as the mirror of every registry (a
// _default/hosts.toml) then pulls them by the names that this program prints.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/cricket-cri/cricket/test/images"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:5055", "HOST:PORT to serve on; empty: only make the images")
	cache := flag.String("cache", ".cache", "directory that keeps the images")
	var layouts []string
	flag.Func("layout", "serve this image layout, which an earlier call made, instead of making the images; may be given several times", func(dir string) error {
		layouts = append(layouts, dir)
		return nil
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	say := func(format string, a ...any) { fmt.Printf(format+"\n", a...) }
	if len(layouts) == 0 {
		made, err := images.Build(ctx, images.Options{Cache: *cache, Say: say})
		if err != nil {
			return err
		}
		layouts = []string{made.Dir()}
	}
	sets, err := open(layouts, say)
	if err != nil {
		return err
	}
	if *listen == "" {
		return nil
	}
	server, address, err := images.NewRegistry(sets...).Serve(*listen)
	if err != nil {
		return err
	}
	say("serving on http://%s", address)
	<-ctx.Done()
	return server.Close()
}

// open opens layouts and prints what is in them.
func open(layouts []string, say func(string, ...any)) ([]*images.Set, error) {
	var sets []*images.Set
	for _, dir := range layouts {
		set, err := images.Open(dir)
		if err != nil {
			return nil, err
		}
		sets = append(sets, set)
		names := set.Names()
		slices.Sort(names)
		for _, n := range names {
			digest, err := set.Digest(n)
			if err != nil {
				return nil, err
			}
			say("%s %s", digest, n)
		}
	}
	return sets, nil
}
