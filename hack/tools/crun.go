package tools

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// CrunVersion is the version of crun that runtimes are measured with. Debian 12's is too old
// for the runtime specification that containerd writes.
const CrunVersion = "1.21"

const (
	// Debian 13's source, which has a configure script and what is generated.
	crunURL = "http://deb.debian.org/debian/pool/main/c/crun/crun_" + CrunVersion + ".orig.tar.gz"
	crunSum = "4bfb700e764a4804a4de3ecf07753f4c391005356d60356df65d80ae0914c486"
	// crunMost bounds the download, in bytes.
	crunMost = 16 << 20
)

// crunChange lets crun run where a controller is on cgroup v2 beside v1, which it does not use
// then. Cricket starts its crun where that hierarchy is not mounted instead.
func crunChange() Change {
	return Change{
		File:   "src/libcrun/cgroup.c",
		Old:    "      if (len > 0)\n        return crun_make_error (err, 0, \"cgroups in hybrid mode not supported",
		New:    "      if (0)\n        return crun_make_error (err, 0, \"cgroups in hybrid mode not supported",
		Reason: "a machine of the tests has hugetlb on cgroup v2 and the rest on v1",
	}
}

// Crun builds crun from its published source and returns its path. It is a static program, as
// the ones that its project publishes are: crun executes itself twice in every call, and half
// of what a call takes is the linking of libraries. It needs what hack/setup bench installs,
// and the network unless the cache has it.
func (b Builder) Crun(ctx context.Context) (string, error) {
	out, err := filepath.Abs(filepath.Join(b.Cache, "tools", "crun-"+CrunVersion+"-static", "crun"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	b.Say("build crun from %s", crunURL)
	src := filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(out))), "src", "crun")
	defer func() { _ = os.RemoveAll(src) }() // only space; the next build begins with it
	if err := unpackCrun(ctx, src); err != nil {
		return "", fmt.Errorf("unpack crun: %w", err)
	}
	if err := b.apply(src, crunChange()); err != nil {
		return "", fmt.Errorf("change crun: %w", err)
	}
	if err := linkYajl(ctx, src); err != nil {
		return "", fmt.Errorf("find static libyajl: %w", err)
	}
	for _, args := range [][]string{
		{"./configure", "--disable-systemd", "--quiet", "LDFLAGS=-static -L" + src, "LIBS=-lm"},
		{"make", "-j2", "--quiet", ".version", "git-version.h", "crun", "CRUN_LDFLAGS=-all-static"},
	} {
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Dir = src
		c.Env = append(os.Environ(), "PYTHON=/usr/bin/python3") // whatever else the PATH has
		if text, err := c.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build crun: %s: %w\n%s", args[0], err, text[max(0, len(text)-2000):])
		}
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	return out, os.Rename(filepath.Join(src, "crun"), out)
}

// linkYajl gives Debian's static libyajl, in dir, the name that a linker looks for.
func linkYajl(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "gcc", "-print-file-name=libyajl_s.a").Output()
	if err != nil {
		return err
	}
	return os.Symlink(strings.TrimSpace(string(out)), filepath.Join(dir, "libyajl.a"))
}

// unpackCrun downloads the source, checked against its hash, to dir.
func unpackCrun(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, crunURL, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("download %s: %s", crunURL, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, crunMost))
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != crunSum {
		return fmt.Errorf("%s has the hash %x, expected %s", crunURL, sum, crunSum)
	}
	archive := filepath.Join(dir, "crun.tar.gz")
	if err := os.WriteFile(archive, data, 0o644); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, "tar", "-xzf", archive, "-C", dir, "--strip-components=1")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	return nil
}
