package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cricket-cri/cricket/test/cluster"
)

// The files of a running cluster.
const (
	recordFile     = "node.json"
	kubeconfigFile = "kubeconfig"
	progressFile   = "progress.log"
	readyFile      = "ready"
)

// up starts the cluster in the background and returns when it is ready.
func (o options) up(ctx context.Context) error {
	if r, err := o.read(); err == nil && r.alive() {
		return fmt.Errorf("a cluster runs already; its kubeconfig is %s", o.file(kubeconfigFile))
	}
	if err := o.down(); err != nil {
		return fmt.Errorf("remove what is left of an earlier cluster: %w", err)
	}
	env, err := cluster.Prepare(ctx, cluster.Sources{Runtime: o.runtime, Cricketd: o.cricketd, Cache: o.cache, Say: say})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir(), 0o755); err != nil {
		return err
	}
	ended, err := o.spawn(env)
	if err != nil {
		return err
	}
	if err := o.follow(ctx, ended); err != nil {
		return errors.Join(err, o.down())
	}
	say("\nThe cluster is ready; the logs are in %s. Use it:\n  export KUBECONFIG=%s\n  %s get pods -A\nmake cluster-down removes it.",
		o.file("logs"), o.file(kubeconfigFile), kubectl())
	return nil
}

// kubectl is how people call it.
func kubectl() string {
	if path, err := filepath.Abs("bin/kubectl"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return "kubectl"
}

// spawn starts this program again as the process that holds the node. The channel is
// closed when it has ended.
func (o options) spawn(env map[string]string) (<-chan struct{}, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	progress, err := os.Create(o.file(progressFile))
	if err != nil {
		return nil, err
	}
	defer progress.Close()
	c := exec.Command("/proc/self/exe", "--cache", o.cache, "serve")
	c.Env = os.Environ()
	for k, v := range env {
		c.Env = append(c.Env, k+"="+v)
	}
	c.Stdout, c.Stderr, c.ExtraFiles = progress, progress, []*os.File{socket}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start the node: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	return ended, o.write(record{Pid: c.Process.Pid})
}

// follow prints the node's progress until it is ready.
func (o options) follow(ctx context.Context, ended <-chan struct{}) error {
	progress, err := os.Open(o.file(progressFile))
	if err != nil {
		return err
	}
	defer progress.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, readyErr := os.Stat(o.file(readyFile))
		if _, err := io.Copy(os.Stdout, progress); err != nil {
			return err
		}
		if readyErr == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			_, err := io.Copy(os.Stdout, progress)
			return errors.Join(fmt.Errorf("the cluster has not started; the logs are in %s", o.file("logs")), err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
