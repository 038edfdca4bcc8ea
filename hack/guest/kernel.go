package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// built says what the small kernel in the cache was made from.
type built struct {
	Release string `json:"release"`
	Package string `json:"package"`
	Config  string `json:"config"` // SHA-256 of kernel.config
}

func (b *builder) built() (built, bool) {
	var m built
	text, err := os.ReadFile(filepath.Join(b.cache, "vmlinux-small.json"))
	if err != nil || json.Unmarshal(text, &m) != nil {
		return built{}, false
	}
	_, err = os.Stat(filepath.Join(b.cache, "vmlinux-small"))
	return m, err == nil
}

// kernel builds the small kernel from Debian's source, unless that is done already.
func (b *builder) kernel(ctx context.Context) error {
	if err := b.lock("kernel.lock"); err != nil {
		return err
	}
	d, err := b.fetch(ctx, sourceName)
	if err != nil {
		return err
	}
	config, err := os.ReadFile(filepath.Join(b.root, "hack/guest/kernel.config"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	want := built{Package: d.Package + " " + d.Version, Config: hex.EncodeToString(sum[:])}
	if have, ok := b.built(); ok && have.Package == want.Package && have.Config == want.Config {
		return b.image(ctx)
	}
	start := time.Now()
	source, err := b.source(ctx, d)
	if err != nil {
		return err
	}
	if want.Release, err = b.compile(ctx, source, config); err != nil {
		return err
	}
	b.say("built the small kernel %s in %s", want.Release, time.Since(start).Round(time.Second))
	text, err := json.Marshal(want)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(b.cache, "vmlinux-small.json"), text); err != nil {
		return err
	}
	return b.image(ctx)
}

// source unpacks Debian's kernel source, once, and names its directory.
func (b *builder) source(ctx context.Context, d debian) (string, error) {
	return b.once(d, "", func(dir string) error {
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c",
			`dpkg-deb --fsys-tarfile "$0" | tar -xO "./usr/src/$1.tar.xz" | tar -xJ --strip-components=1 -C "$2"`, d.path, sourceName, dir)
		cmd.Stderr = os.Stderr
		return cmd.Run()
	})
}

// compile builds the kernel, strips it and says its release. An interrupted build goes on
// where it was.
func (b *builder) compile(ctx context.Context, source string, config []byte) (string, error) {
	objects := filepath.Join(b.cache, "kernel-build")
	if err := os.MkdirAll(objects, 0o755); err != nil {
		return "", err
	}
	if err := b.make(ctx, source, objects, "KCONFIG_ALLCONFIG="+filepath.Join(b.root, "hack/guest/kernel.config"), "allnoconfig"); err != nil {
		return "", err
	}
	result, err := os.ReadFile(filepath.Join(objects, ".config"))
	if err != nil {
		return "", err
	}
	if err := compareConfig(config, result); err != nil {
		return "", err
	}
	b.say("build the small kernel: this takes ten minutes on two free CPUs")
	if err := b.make(ctx, source, objects, "-j"+strconv.Itoa(runtime.NumCPU()), "vmlinux"); err != nil {
		return "", err
	}
	// Everything but what is loaded and the PVH note goes.
	cmd := exec.CommandContext(ctx, "strip", "-s", "-o", filepath.Join(b.cache, "vmlinux-small"), filepath.Join(objects, "vmlinux"))
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("strip the kernel: %w", err)
	}
	release, err := os.ReadFile(filepath.Join(objects, "include/config/kernel.release"))
	return strings.TrimSpace(string(release)), err
}

// make runs make in the kernel's source, quietly, with what a reproducible kernel needs.
func (b *builder) make(ctx context.Context, source, objects string, args ...string) error {
	cmd := exec.CommandContext(ctx, "make", append([]string{"-s", "-C", source, "O=" + objects}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "KBUILD_BUILD_TIMESTAMP=1970-01-01", "KBUILD_BUILD_USER=cricket", "KBUILD_BUILD_HOST=cricket", "MAKEFLAGS=", "MFLAGS=", "MAKELEVEL=")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make %s: %w\n%s", strings.Join(args, " "), err, out.Bytes())
	}
	return nil
}

// compareConfig tells which of the wanted options are not in the result, as happens when
// one depends on another that is not wanted, or has gone.
func compareConfig(wanted, result []byte) error {
	have := make(map[string]bool)
	for line := range bytes.Lines(result) {
		have[strings.TrimSpace(string(line))] = true
	}
	var missing []error
	for s := bufio.NewScanner(bytes.NewReader(wanted)); s.Scan(); {
		line := s.Text()
		if strings.HasPrefix(line, "CONFIG_") && !have[line] {
			missing = append(missing, fmt.Errorf("%s did not come through", line))
		}
		if name, ok := strings.CutSuffix(strings.TrimPrefix(line, "# "), " is not set"); ok && have[name+"=y"] {
			missing = append(missing, fmt.Errorf("%s is set all the same", name))
		}
	}
	return errors.Join(missing...)
}
