// Program coverage holds the table of the CRI's fields: which are honoured and which are
// refused, in each hull, and by which test one knows. It checks the table against the
// descriptors of the API and the tests' source, writes docs/cri-coverage.md, and checks what
// a run of the suite recorded.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cricket-cri/cricket/test/coverage/field"
	"github.com/cricket-cri/cricket/test/harness"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func run() error {
	recording := flag.String("recording", "", "check what a run of the suite wrote to this `file` (CRICKET_TEST_RECORD)")
	hull := flag.String("hull", "kernel", "the `hull` that the run was in: kernel or vm")
	write := flag.Bool("write", false, "write "+document)
	flag.Parse()
	if *hull != "kernel" && *hull != "vm" {
		return fmt.Errorf("there is no hull %q", *hull)
	}
	root, err := harness.ModuleRoot(context.Background())
	if err != nil {
		return err
	}
	entries, err := table()
	if err != nil {
		return err
	}
	requests, answers := field.Requests(), field.Answers()
	source := tests{root: root}
	all := problems(entries, requests, answers, source.exists)
	if *write {
		if err := os.WriteFile(filepath.Join(root, document), []byte(page(entries, requests, answers)), 0o644); err != nil {
			return err
		}
	}
	if *recording != "" {
		r, err := field.Read(*recording)
		if err != nil {
			return err
		}
		all = append(all, broken(entries, *hull, r)...)
	}
	if len(all) > 0 {
		return fmt.Errorf("%d problems:\n%s", len(all), strings.Join(all, "\n"))
	}
	return nil
}
