package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// series is the kernel that guests run: the long-term series that the EROFS images of
// runtime/layer need, which Debian 12 has beside its own older one.
const series = "6.12"

// The packages of Debian that hold the kernel.
const (
	imagePattern = `^linux-image-6\.12\.[0-9]+\+deb[0-9]+-amd64$`
	sourceName   = "linux-source-" + series
)

// debian is a package file and what it is.
type debian struct {
	Package, Version string
	path             string
}

// imagePackage finds the newest kernel image that apt knows, and fetches it. Without apt's
// lists what is in the cache serves.
func (b *builder) imagePackage(ctx context.Context) (debian, error) {
	name, err := newestKnown(ctx)
	if err != nil {
		return debian{}, err
	}
	if name == "" {
		if d, err := b.cached("linux-image-" + series + ".*"); err == nil {
			return d, nil
		}
		b.say("update apt's lists")
		if err := exec.CommandContext(ctx, "apt-get", "-qq", "update").Run(); err != nil {
			return debian{}, fmt.Errorf("update apt's lists: %w", err)
		}
		if name, err = newestKnown(ctx); err != nil {
			return debian{}, err
		}
	}
	if name == "" {
		return debian{}, fmt.Errorf("apt knows no package like %s: it is in Debian's bookworm-security", imagePattern)
	}
	return b.fetch(ctx, name)
}

func newestKnown(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "pkgnames", "linux-image-"+series+".").Output()
	if err != nil {
		return "", fmt.Errorf("list kernel packages: %w", err)
	}
	return newest(strings.Fields(string(out))), nil
}

// newest is the kernel image of the highest version among names.
func newest(names []string) string {
	image := regexp.MustCompile(imagePattern)
	var best string
	for _, n := range names {
		if image.MatchString(n) && (best == "" || slices.Compare(numbers(n), numbers(best)) > 0) {
			best = n
		}
	}
	return best
}

// numbers are the numbers in s, in their order.
func numbers(s string) []int {
	var all []int
	for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		n, err := strconv.Atoi(field)
		if err != nil {
			n = 0
		}
		all = append(all, n)
	}
	return all
}

// fetch has apt fetch and verify a package, unless the cache has that version.
func (b *builder) fetch(ctx context.Context, name string) (debian, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", name).Output()
	if err != nil {
		return debian{}, fmt.Errorf("look up package %s: %w", name, err)
	}
	version := field(string(out), "Version")
	if d, err := b.cached(name); err == nil && d.Version == version {
		return d, nil
	}
	b.say("fetch Debian's %s %s", name, version)
	dir, err := os.MkdirTemp(b.cache, "fetch-")
	if err != nil {
		return debian{}, err
	}
	defer os.RemoveAll(dir)
	// apt's own user cannot write there, and says so.
	cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name+"="+version)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	if err := cmd.Run(); err != nil {
		return debian{}, fmt.Errorf("fetch package %s: %w", name, err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(found) != 1 {
		return debian{}, fmt.Errorf("fetch package %s: apt-get left %d files", name, len(found))
	}
	old, err := filepath.Glob(filepath.Join(b.cache, name+"_*.deb"))
	if err != nil {
		return debian{}, err
	}
	for _, f := range old {
		os.Remove(f)
	}
	to := filepath.Join(b.cache, filepath.Base(found[0]))
	if err := os.Rename(found[0], to); err != nil {
		return debian{}, err
	}
	return debian{Package: name, Version: version, path: to}, nil
}

// cached finds a package in the cache, by the pattern of its name; the last by name.
func (b *builder) cached(pattern string) (debian, error) {
	found, err := filepath.Glob(filepath.Join(b.cache, pattern+"_*.deb"))
	if err != nil || len(found) == 0 {
		return debian{}, fmt.Errorf("package %s: %w", pattern, os.ErrNotExist)
	}
	slices.SortFunc(found, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
	path := found[len(found)-1]
	parts := strings.Split(strings.TrimSuffix(filepath.Base(path), ".deb"), "_")
	return debian{Package: parts[0], Version: strings.ReplaceAll(parts[1], "%3a", ":"), path: path}, nil
}

// field is the value of a field in a control file.
func field(control, name string) string {
	for line := range strings.Lines(control) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
