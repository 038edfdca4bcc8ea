package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cricket-cri/cricket/hack/tools"
)

const documentTop = `# Benchmarks

Made by %[1]s from one run of [cribench](../cmd/cribench) on %[2]s, and not edited by hand.
%[3]s--help%[3]s of the program says what each section measures. All endpoints have the same image and
the same bridge network (ipMasq, host-local, portmap), run in one private node with their default
settings (%[3]stest/harness%[3]s has the peers'), and take turns, round by round, where the
program's package comment does not say why not. Sequential pods are measured in blocks, because
Cricket keeps virtual machines ready, which it would otherwise make while the others are measured.
Whoever uses crun has the same one, linked statically as crun's own releases are
([operations.md](operations.md) says what a distribution's may cost).

| what | version |
|---|---|
%[4]s
On plots: the share of calls that took at most so many ms. Curves further to the left are better.

`

// writeDocument measures everything and writes the page. It is written also if something of it
// was not as expected; the page says so itself.
func (o options) writeDocument(ctx context.Context, args []string) error {
	plots := strings.TrimSuffix(o.document, ".md")
	body := o.document + ".new"
	args = append(args, "--expect", filepath.Join(o.expectations, "targets.txt"), "--markdown", body, "--plots", plots,
		"--json", filepath.Join(o.cache, "benchmarks.json"))
	if err := os.RemoveAll(plots); err != nil {
		return err
	}
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	measured := o.cribench(ctx, args)
	text, err := os.ReadFile(body)
	if err != nil {
		return fmt.Errorf("nothing was measured: %w", measured)
	}
	if measured != nil {
		say("cribench: %v; the page says what was missed", measured)
	}
	top := fmt.Sprintf(documentTop, "`"+o.command()+"`", time.Now().UTC().Format("2006-01-02"), "`", o.versions(ctx))
	if err := os.WriteFile(o.document, append([]byte(top), text...), 0o644); err != nil {
		return err
	}
	return os.Remove(body)
}

// command is what makes the page again.
func (o options) command() string {
	if o.whole && len(o.arguments) == 0 {
		return "make bench"
	}
	return "go run ./test/bench --only " + strings.Join(o.only, ",") + " --document docs/benchmarks.md -- " + strings.Join(o.arguments, " ")
}

// versions are rows of a table.
func (o options) versions(ctx context.Context) string {
	rows := [][2]string{
		{"Cricket", output(ctx, "git", "describe", "--tags", "--always", "--dirty")},
		{"crun, everybody's", tools.CrunVersion + ", static"},
	}
	if o.measures(peer, peerCrun) {
		rows = append(rows, [2]string{"containerd", tools.Containerd()[0].Module}, [2]string{"runc", tools.Runc().Module})
	}
	if o.measures(peerCrio) {
		rows = append(rows, [2]string{"CRI-O", tools.CrioVersion}, [2]string{"conmon", output(ctx, "conmon", "--version")})
	}
	if o.measures(vmPods) {
		rows = append(rows, [2]string{"QEMU", output(ctx, "qemu-system-x86_64", "--version")})
	}
	rows = append(rows,
		[2]string{"CNI plugins", output(ctx, "dpkg-query", "-W", "-f", "${Version}", "containernetworking-plugins")},
		[2]string{"Go", output(ctx, "go", "env", "GOVERSION")})
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s |\n", r[0], r[1])
	}
	return b.String()
}

// output is the first line that a program prints.
func output(ctx context.Context, name string, args ...string) string {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
