package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bundle puts everything that --endpoint needs into dir: dir/tools with critest, crictl,
// critest-runner (this program) and registry, all static, and dir/images, the image
// layout that registry serves with --layout.
func bundle(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	bin := filepath.Join(dir, "tools")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	for from, to := range map[string]string{
		os.Getenv(critestEnv): filepath.Join(bin, "critest"),
		os.Getenv(crictlEnv):  filepath.Join(bin, "crictl"),
	} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o755); err != nil {
			return err
		}
	}
	for name, pkg := range map[string]string{"critest-runner": "./test/critest", "registry": "./test/images/serve"} {
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(bin, name), pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, msg)
		}
	}
	return os.CopyFS(filepath.Join(dir, "images"), os.DirFS(os.Getenv(imagesEnv)))
}

// against runs the critest of a bundle against a runtime that runs already.
func against(o options) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := os.Setenv(critestEnv, filepath.Join(filepath.Dir(self), "critest")); err != nil {
		return 1, err
	}
	if err := os.MkdirAll(o.reports, 0o755); err != nil {
		return 1, err
	}
	var total result
	for range o.repeat {
		dir, err := os.MkdirTemp("", "critest-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		r, err := once(ctx, o, o.endpoint, dir)
		if err != nil {
			return 1, err
		}
		total.add(r)
	}
	fmt.Println(total)
	if total.failed > 0 || total.passed == 0 {
		return 1, nil
	}
	return 0, nil
}
