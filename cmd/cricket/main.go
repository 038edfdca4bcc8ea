// Command cricket is the operator's tool: it explains configurations, examines the
// host, and shows what the daemon is doing.
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
	"strings"
	"syscall"
)

// version is set by the linker.
var version = "devel"

// errQuiet ends the program with exit code 1; what there is to say was said.
var errQuiet = errors.New("not everything is in order")

// command is one subcommand.
type command struct {
	name, args, help string
	run              func(ctx context.Context, args []string, out io.Writer) error
}

func commands() []command {
	return []command{
		{"check", "[flags]", "examine this host: what works, what is missing, what to install", check},
		{"config default", "", "print the default configuration with its documentation", configDefault},
		{"config check", "FILE", "explain every mistake in a configuration file", configCheck},
		{"image ls", "[flags]", "list the images of this node", imageList},
		{"image rm", "[flags] NAME...", "remove images with all their names", imageRemove},
		{"image import", "[flags] FILE", "bring in images: OCI layout, Docker archive, - for standard input", imageImport},
		{"image export", "[flags] NAME...", "write images as an OCI layout that Docker reads too", imageExport},
		{"image prefetch", "[flags] [NAME...]", "pull images, or those of images.prefetch", imagePrefetch},
		{"verify", "[flags]", "read and check everything in the image store", verify},
		{"ops", "[flags]", "show the operations that the daemon is at", showOps},
		{"version", "", "print the version", func(_ context.Context, _ []string, out io.Writer) error {
			_, err := fmt.Fprintln(out, "cricket", version)
			return err
		}},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := dispatch(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case errors.Is(err, errQuiet):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "cricket:", err)
		os.Exit(1)
	}
}

// dispatch runs the subcommand that the first words name.
func dispatch(ctx context.Context, args []string, out io.Writer) error {
	for _, c := range commands() {
		if rest, ok := cut(args, c.name); ok {
			return c.run(ctx, rest, out)
		}
	}
	usage(os.Stderr)
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		return flag.ErrHelp
	}
	return fmt.Errorf("there is no command %q", args[0])
}

// cut takes the words of name off the front of args.
func cut(args []string, name string) ([]string, bool) {
	words := strings.Fields(name)
	if len(args) < len(words) || !slices.Equal(args[:len(words)], words) {
		return nil, false
	}
	return args[len(words):], true
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "usage: cricket COMMAND")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-32s %s\n", c.name+" "+c.args, c.help)
	}
}
