package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// checkTime bounds CRIU's check of the kernel, which takes a tenth of a second.
const checkTime = 20 * time.Second

// maxVerdict bounds, in bytes, what of CRIU's complaints is told.
const maxVerdict = 600

// CRIU is the program criu(8) of this machine. It uses os/exec: not for a process that
// runs a monitor.Server. Its methods are safe for concurrent use.
type CRIU struct {
	// Path is that of the configuration, empty to look in PATH.
	Path string

	mu sync.Mutex
	// good is the program that was checked with success.
	good identity
}

// identity tells whether a program is still the one that was checked. The kernel does not
// change while this process runs.
type identity struct {
	path string
	dev  uint64
	ino  uint64
	size int64
	at   unix.Timespec
}

// Find returns the absolute path of the program. ErrFailedPrecondition says how to get it
// if it is not there.
func (c *CRIU) Find() (string, error) {
	if c.Path != "" {
		if err := unix.Access(c.Path, unix.X_OK); err != nil {
			return "", fmt.Errorf("find CRIU: %s: %w: %w; see [checkpoint] in the configuration", c.Path, errdefs.ErrFailedPrecondition, err)
		}
		return c.Path, nil
	}
	for _, name := range []string{"criu", "/usr/sbin/criu", "/usr/local/sbin/criu"} {
		path, err := exec.LookPath(name)
		if err == nil && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("find CRIU: it is not installed: %w; apt-get install criu, or name it in [checkpoint] in the configuration", errdefs.ErrFailedPrecondition)
}

// Check asks CRIU whether it can work with this kernel and these privileges, and returns
// its path. A good answer is kept for as long as the program does not change; a bad one is
// not, for its cause can be mended. ErrFailedPrecondition quotes what CRIU complains of.
func (c *CRIU) Check(ctx context.Context) (string, error) {
	path, err := c.Find()
	if err != nil {
		return "", err
	}
	now, err := identify(path)
	if err != nil {
		return "", fmt.Errorf("find CRIU: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now == c.good {
		return path, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	run := exec.CommandContext(ctx, path, "check")
	run.WaitDelay = time.Second // what it left behind may hold the output open
	run.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := run.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("ask CRIU whether it can work here: %s check: %w: %w: %s", path, errdefs.ErrFailedPrecondition, plain(err), verdict(out))
	}
	c.good = now
	return path, nil
}

// plain hides the kind of a context's error: that CRIU hangs is no timeout of the caller's.
func plain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", checkTime)
	}
	return err
}

func identify(path string) (identity, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return identity{}, fmt.Errorf("%s: %w", path, err)
	}
	return identity{path, st.Dev, st.Ino, st.Size, st.Ctim}, nil
}

// verdict is what CRIU says in its own words, errors alone if there are any, in one line.
func verdict(out []byte) string {
	var all, wrong []string
	for line := range bytes.Lines(out) {
		text := strings.TrimSpace(string(line))
		if text == "" {
			continue
		}
		all = append(all, text)
		if strings.HasPrefix(text, "Error") {
			wrong = append(wrong, text)
		}
	}
	if len(wrong) > 0 {
		all = wrong
	}
	text := strings.Join(all, "; ")
	if text == "" {
		return "it says nothing"
	}
	if len(text) > maxVerdict {
		text = text[:maxVerdict] + "…"
	}
	return strings.ToValidUTF8(text, "?")
}

// Complaint is what CRIU logged of its failure in a work directory, empty if there is
// nothing. OCI runtimes tell no more than that it failed.
func Complaint(work string) string {
	b, err := os.ReadFile(filepath.Join(work, dumpLog))
	if err != nil {
		return ""
	}
	var wrong []byte
	for line := range bytes.Lines(b) {
		if _, after, ok := bytes.Cut(line, []byte("Error (")); ok {
			wrong = append(append(wrong, "Error ("...), after...)
		}
	}
	if len(wrong) == 0 {
		return ""
	}
	return verdict(wrong)
}
