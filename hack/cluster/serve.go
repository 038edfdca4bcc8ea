package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cricket-cri/cricket/test/cluster"
	"github.com/cricket-cri/cricket/test/harness"
)

// apiFile is the descriptor of the socket that people reach the API through: the first that
// spawn hands over.
const apiFile = 3

// serve holds the node: outside until it is told to end, inside with the cluster.
func (o options) serve() (int, error) {
	if harness.Dir() == "" {
		if err := harness.Inherit(apiFile); err != nil {
			return 1, err
		}
	}
	code, done, err := harness.Isolate()
	if done || err != nil {
		return code, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	return 0, o.inside(ctx)
}

func (o options) inside(ctx context.Context) error {
	if err := o.update(func(r *record) { r.Dir = harness.Dir() }); err != nil {
		return err
	}
	api, err := net.FileListener(harness.Inherited())
	if err != nil {
		return err
	}
	defer api.Close()
	c, err := cluster.Start(ctx, cluster.Options{Logs: o.file("logs"), Say: say})
	if err != nil {
		return err
	}
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { relay(ctx, api, cluster.APIAddress) })
	if err := o.kubeconfig(c.Kubeconfig, "https://"+api.Addr().String()); err != nil {
		return err
	}
	if err := os.WriteFile(o.file(readyFile), nil, 0o644); err != nil {
		return err
	}
	<-ctx.Done()
	return c.Close()
}

// kubeconfig writes the administrator's for those who reach the API at server.
func (o options) kubeconfig(inside, server string) error {
	c, err := clientcmd.LoadFromFile(inside)
	if err != nil {
		return err
	}
	for _, cluster := range c.Clusters {
		cluster.Server = server
	}
	return clientcmd.WriteToFile(*c, o.file(kubeconfigFile))
}

// relay connects everybody who comes to l with address, until the context ends.
func relay(ctx context.Context, l net.Listener, address string) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", address)
			if err != nil {
				return
			}
			defer server.Close()
			join(client, server)
		}()
	}
}

// join copies both ways until both have ended.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	for from, to := range map[net.Conn]net.Conn{a: b, b: a} {
		both.Go(func() {
			_, err := io.Copy(to, from)
			if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
				err = half.CloseWrite()
			}
			if err != nil && !errors.Is(err, net.ErrClosed) {
				to.Close()
			}
		})
	}
	both.Wait()
}
