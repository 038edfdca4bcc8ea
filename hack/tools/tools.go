// Package tools builds the programs of other projects that building and testing need,
// each pinned to a version of a Go module and to the hash of its content.
//
// A program is built inside a copy of its own module, hence with exactly the
// dependencies that its authors chose, and kept in the cache directory. What has no module
// of its own is built from one in a directory here.
package tools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Tool is one program.
type Tool struct {
	Name   string
	Module string // with version
	Sum    string // h1 hash of the module's content
	// Source is a directory that holds the module, instead of Module and Sum. What it needs
	// has its hashes in the go.sum there.
	Source  string `json:"-"`
	Package string // below the module's root
	Tags    string
	Cgo     bool
	Test    bool // the package's test binary is the program
	Changes []Change
	// LDFlags are for the linker, besides those that strip the program.
	LDFlags string `json:",omitempty"`
	// Staging is the version of the modules that the module's go.mod replaces by
	// directories of its repository, StagingSum one hash of what all of them hold.
	Staging    string `json:",omitempty"`
	StagingSum string `json:",omitempty"`
}

// Change replaces text that occurs exactly once in a source file. Build prints it.
type Change struct {
	File, Old, New string
	Reason         string
}

// The versions of critest that are known: the one that every change must pass, and the
// next, whose suite has specs for NRI plugins besides.
const (
	CritestVersion     = "1.36.0"
	NextCritestVersion = "1.37.0"
)

const (
	criTools   = "sigs.k8s.io/cri-tools@v"
	criSum     = "h1:Xt+LLvBVH1Fnp/AR2EyHApyWS/88y2KlWjlDc2HR+aw="
	nextCRISum = "h1:BmTImEoTX3KPXCLwmIU9mfCC8umUqF4R8WibY9eVU9Y="
	containerd = "github.com/containerd/containerd/v2@v2.4.2"
	ctrdSum    = "h1:p6Qg+xbEz8lvwdhHDx0U469xENvp4LgGBx+E7djXkGw="
	runcSum    = "h1:eUUowc2WJCnFYzI87C1WqRcu356Dk/wsoi90y+2wEfE="
)

// Crictl is the client that people use by hand.
func Crictl() Tool {
	return Tool{Name: "crictl", Module: criTools + CritestVersion, Sum: criSum, Package: "./cmd/crictl"}
}

// Critest is the conformance suite of CRI in one of its known versions; another is an
// error. One of its images is named by a digest whose bytes can only be had from its
// registry; digest (sha256:...) takes its place.
func Critest(version, digest string) (Tool, error) {
	sums := map[string]string{CritestVersion: criSum, NextCritestVersion: nextCRISum}
	if sums[version] == "" {
		return Tool{}, fmt.Errorf("critest %q is not known: choose of %s", version, strings.Join(slices.Sorted(maps.Keys(sums)), ", "))
	}
	return Tool{
		Name: "critest", Module: criTools + version, Sum: sums[version], Package: "./cmd/critest", Test: true,
		Changes: []Change{{
			File:   "pkg/validate/consts.go",
			Old:    `"test-image-digest@sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"`,
			New:    `"test-image-digest@` + digest + `"`,
			Reason: "the image's bytes cannot be fetched offline",
		}},
	}, nil
}

// Runc is the OCI runtime for hosts whose packaged one is too old.
func Runc() Tool {
	return Tool{
		Name: "runc", Module: "github.com/opencontainers/runc@v1.5.2", Sum: runcSum,
		Package: ".", Tags: "seccomp", Cgo: true,
	}
}

// UlimitAdjuster is the sample plugin of NRI that sets limits of processes by annotations of
// their pods. It is the only sample that a published form of the module holds, and this the
// only version that does: the others are modules that nobody has published.
func UlimitAdjuster() Tool {
	return Tool{
		Name: "ulimit-adjuster", Module: "github.com/containerd/nri@v0.4.0",
		Sum: "h1:PjgIBm0RtUiFyEO6JqPBQZRQicbsIz41Fz/5VSC0zgw=", Package: "./plugins/ulimit-adjuster",
	}
}

// Linter runs the rules in .golangci.yml.
func Linter() Tool {
	return Tool{
		Name: "golangci-lint", Module: "github.com/golangci/golangci-lint/v2@v2.15.0",
		Sum: "h1:w94zf8HAYI7hm3164kwKsvZRuqXvY+YxeFoTbu1OLg8=", Package: "./cmd/golangci-lint",
	}
}

// Containerd is the runtime that shows that the test images are honest.
func Containerd() []Tool {
	return []Tool{
		{Name: "containerd", Module: containerd, Sum: ctrdSum, Package: "./cmd/containerd"},
		{Name: "containerd-shim-runc-v2", Module: containerd, Sum: ctrdSum, Package: "./cmd/containerd-shim-runc-v2"},
	}
}

// Builder builds tools. Two builders may share a cache, but not at the same time.
type Builder struct {
	Cache string
	// Say is told of every build that begins, and that is done, with the time it took.
	Say func(string, ...any)
}

// Build returns the path of the program, building it if the cache does not have it. It
// needs a Go tool chain, for runc a C compiler and libseccomp-dev, and the network
// unless Go's module cache holds the module and what it needs.
func (b Builder) Build(ctx context.Context, t Tool) (string, error) {
	cache, err := filepath.Abs(b.Cache)
	if err != nil {
		return "", err
	}
	key, err := t.key()
	if err != nil {
		return "", err
	}
	out := filepath.Join(cache, "tools", key, t.Name)
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	src := filepath.Join(cache, "src", t.Name)
	defer func() { _ = os.RemoveAll(src) }() // only space; the next build begins with it
	b.Say("build %s from %s", t.Name, t.Module+t.Source)
	began := time.Now()
	if err := t.unpack(ctx, src); err != nil {
		return "", fmt.Errorf("unpack %s: %w", t.Module+t.Source, err)
	}
	if t.Staging != "" {
		if err := t.unstage(ctx, src); err != nil {
			return "", err
		}
	}
	for _, c := range t.Changes {
		if err := b.apply(src, c); err != nil {
			return "", fmt.Errorf("change %s: %w", t.Name, err)
		}
	}
	if err := t.compile(ctx, src, out); err != nil {
		return "", fmt.Errorf("build %s: %w", t.Name, err)
	}
	b.Say("%6.1fs  %s is built", time.Since(began).Seconds(), t.Name)
	return out, nil
}

// key names what a tool was built from.
func (t Tool) key() (string, error) {
	data, err := json.Marshal(t)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	sum.Write(data)
	if t.Source != "" {
		if err := fingerprint(sum, os.DirFS(t.Source)); err != nil {
			return "", fmt.Errorf("read %s: %w", t.Source, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// fingerprint writes the names of all files below dir and what they hold to w.
func fingerprint(w io.Writer, dir fs.FS) error {
	return fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dir, path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s %d\n%s", path, len(data), data)
		return err
	})
}

// unpack copies the module to dir.
func (t Tool) unpack(ctx context.Context, dir string) (err error) {
	from := t.Source
	if from == "" {
		if from, err = t.download(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return err
	}
	// Modules are read-only in the module cache.
	return exec.CommandContext(ctx, "chmod", "-R", "u+w", dir).Run()
}

// download returns the directory of the module, checked against its hash.
func (t Tool) download(ctx context.Context) (string, error) {
	c := exec.CommandContext(ctx, "go", "mod", "download", "-json", t.Module)
	c.Stderr = os.Stderr
	c.Dir = os.TempDir() // the module stays out of ours
	data, err := c.Output()
	var m struct{ Dir, Sum, Error string }
	if jsonErr := json.Unmarshal(data, &m); jsonErr != nil || m.Error != "" {
		return "", fmt.Errorf("download: %w %s", err, m.Error)
	}
	if m.Sum != t.Sum {
		return "", fmt.Errorf("its content has the hash %s, expected %s", m.Sum, t.Sum)
	}
	return m.Dir, nil
}

// apply makes a change and prints it as a diff.
func (b Builder) apply(src string, c Change) error {
	path := filepath.Join(src, c.File)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(data), c.Old); n != 1 {
		return fmt.Errorf("%q occurs %d times in %s", c.Old, n, c.File)
	}
	changed := strings.Replace(string(data), c.Old, c.New, 1)
	b.Say("--- %s\n+++ %s (%s)", c.File, c.File, c.Reason)
	after := strings.Split(changed, "\n")
	for i, line := range strings.Split(string(data), "\n") {
		if line != after[i] {
			b.Say("@@ -%d +%d @@\n-%s\n+%s", i+1, i+1, line, after[i])
		}
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

func (t Tool) compile(ctx context.Context, src, out string) error {
	// go test vets every package that the tests reach, which takes longer than building.
	args := []string{"build"}
	if t.Test {
		args = []string{"test", "-c", "-vet=off"}
	}
	args = append(args, "-trimpath", "-buildvcs=false", "-ldflags="+strings.TrimSpace("-s -w "+t.LDFlags), "-tags="+t.Tags, "-o", out, t.Package)
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir = src
	cgo := "0"
	if t.Cgo {
		cgo = "1"
	}
	mod := "mod"
	if t.Source != "" {
		mod = "readonly" // its go.sum is ours to keep
	}
	c.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOWORK=off", "GOFLAGS=-mod="+mod)
	if msg, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, msg[max(0, len(msg)-4000):])
	}
	return nil
}
