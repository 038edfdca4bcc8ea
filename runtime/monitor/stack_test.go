package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReleases(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-18-amd64": false, "5.15.0-1": false, "6.6.99": false, "6.7.0": true, "6.18.44-fc": true, "7.0-rc1": true, "odd": false,
	} {
		if got := releaseTakesLowers(release); got != want {
			t.Errorf("%s: %v, want %v", release, got, want)
		}
	}
}

// TestManyLayersOnAnyKernel mounts stacks the way kernels before 6.7 need it. The names
// of the directories alone are longer than the page of options that mount(2) takes.
func TestManyLayersOnAnyKernel(t *testing.T) {
	for _, layers := range []int{2, 25, 127} {
		for _, writable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d layers, writable %v", layers, writable), func(t *testing.T) {
				bundle := t.TempDir()
				o := Overlay{Target: "rootfs", Options: []string{"source=overlay of the test"}}
				for i := range layers {
					dir := filepath.Join(bundle, fmt.Sprintf(`a long, \ odd:name of some sixty bytes, as layers' have them-%03d`, i))
					if err := os.MkdirAll(dir, 0o755); err != nil {
						t.Fatal(err)
					}
					for _, name := range []string{"top", fmt.Sprint("only-", i)} {
						if err := os.WriteFile(filepath.Join(dir, name), []byte(fmt.Sprint(i)), 0o644); err != nil {
							t.Fatal(err)
						}
					}
					o.Lower = append(o.Lower, dir)
				}
				if writable {
					o.Upper, o.Work = filepath.Join(bundle, "upper, 1:2"), filepath.Join(bundle, "work")
					if err := errors.Join(os.Mkdir(o.Upper, 0o755), os.Mkdir(o.Work, 0o755)); err != nil {
						t.Fatal(err)
					}
				}
				if err := inPrivateMounts(func() error { return useNamedStack(bundle, o) }); err != nil {
					t.Error(err)
				}
				if writable {
					if b, err := os.ReadFile(filepath.Join(o.Upper, "new")); err != nil || string(b) != "x" {
						t.Errorf("in the upper directory: %q, %v", b, err)
					}
				}
				if _, err := os.Lstat(filepath.Join(bundle, "names")); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the names are still there: %v", err)
				}
			})
		}
	}
}

// useNamedStack mounts the overlay, and looks at it where a container would.
func useNamedStack(bundle string, o Overlay) error {
	if err := makePrivate(bundle); err != nil {
		return err
	}
	before, err := os.Readlink("/proc/thread-self/cwd")
	if err != nil {
		return err
	}
	tree, err := openNamedStack(filepath.Join(bundle, "names"), o)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if after, err := os.Readlink("/proc/thread-self/cwd"); err != nil || after != before {
		return fmt.Errorf("working directory is %q, %w", after, err)
	}
	root := filepath.Join(bundle, "root")
	if err := errors.Join(os.Mkdir(root, 0o755), moveMount(tree, root)); err != nil {
		return err
	}
	var found error
	if table, err := os.ReadFile("/proc/thread-self/mountinfo"); err != nil || !strings.Contains(string(table), ` - overlay overlay\040of\040the\040test `) {
		found = fmt.Errorf("the mount table does not show the source, %w", err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "top")); err != nil || string(b) != fmt.Sprint(len(o.Lower)-1) {
		found = errors.Join(found, fmt.Errorf("top is of layer %q, %w", b, err))
	}
	for i := range o.Lower {
		if _, err := os.Stat(filepath.Join(root, fmt.Sprint("only-", i))); err != nil {
			found = errors.Join(found, err)
		}
	}
	err = os.WriteFile(filepath.Join(root, "new"), []byte("x"), 0o644)
	if (err == nil) != (o.Upper != "") || o.Upper == "" && !errors.Is(err, unix.EROFS) {
		found = errors.Join(found, fmt.Errorf("write: %w", err))
	}
	return found
}
