package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cricket-cri/cricket/cri/config"
	"github.com/cricket-cri/cricket/cri/operator"
	"github.com/cricket-cri/cricket/runtime/image"
	"github.com/cricket-cri/cricket/runtime/layer"
)

// imageStore is the image store of this node. What changes it is done by the daemon, or here
// while there is none; what only reads goes to the files, which never change in place.
type imageStore struct {
	config config.Config    // the daemon's, if there is one
	conn   *grpc.ClientConn // nil if there is no daemon
	lock   *os.File         // held if there is none
	store  *image.Store     // opened on demand if there is none
}

// reach finds the daemon of a configuration, or that there is none.
func reach(ctx context.Context, c config.Config) (*imageStore, error) {
	n := &imageStore{config: c}
	probe, err := net.DialTimeout("unix", c.Socket, time.Second)
	if err != nil {
		return n, nil
	}
	probe.Close()
	n.conn, err = grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon: %w", err)
	}
	if err := n.adopt(ctx); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// adopt asks the daemon where its store is.
func (n *imageStore) adopt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := v1.NewRuntimeServiceClient(n.conn).Status(ctx, &v1.StatusRequest{Verbose: true})
	if err != nil {
		return fmt.Errorf("ask the daemon at %s: %w", n.config.Socket, err)
	}
	text, ok := resp.GetInfo()["config"]
	if !ok {
		return fmt.Errorf("the runtime at %s does not tell its configuration: is it cricketd?", n.config.Socket)
	}
	socket := n.config.Socket
	if err := json.Unmarshal([]byte(text), &n.config); err != nil {
		return fmt.Errorf("read the daemon's configuration: %w", err)
	}
	n.config.Socket = socket
	return nil
}

func (n *imageStore) close() {
	if n.conn != nil {
		n.conn.Close()
	}
	if n.lock != nil {
		n.lock.Close()
	}
}

func (n *imageStore) records() image.Records {
	return image.Records{Root: filepath.Join(n.config.Root, "images"), Pinned: n.config.Images.Pinned}
}

func (n *imageStore) blobs() layer.Blobs {
	return layer.Blobs{Root: filepath.Join(n.config.Root, "layers")}
}

// own opens the store in this process, which no daemon can do meanwhile.
func (n *imageStore) own() (*image.Store, error) {
	if n.store != nil {
		return n.store, nil
	}
	if err := n.exclude(); err != nil {
		return nil, err
	}
	// Without mounts: those of running containers are the daemon's, which finds out about
	// them when it starts.
	layers, err := layer.Open(layer.Options{Root: filepath.Join(n.config.Root, "layers"), FSVerity: n.config.Images.FSVerity})
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	o := n.config.ImageOptions()
	o.Layers, o.UserAgent = layers, "cricket/"+version
	n.store, err = image.Open(o)
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	return n.store, nil
}

// exclude takes the lock that a daemon holds.
func (n *imageStore) exclude() error {
	if err := os.MkdirAll(n.config.Root, 0o711); err != nil {
		return fmt.Errorf("open image store: %w; run this as root", err)
	}
	f, err := os.OpenFile(filepath.Join(n.config.Root, "cricketd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock image store: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("a daemon uses %s and does not answer on %s: name its --socket", n.config.Root, n.config.Socket)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	n.lock = f
	return nil
}

func (n *imageStore) importImage(ctx context.Context, what image.Import, from image.Content, report func(image.LayerProgress)) (image.Image, error) {
	if n.conn != nil {
		img, err := operator.NewClient(n.conn).Import(ctx, what, from, report)
		return img, plainError(err)
	}
	s, err := n.own()
	if err != nil {
		return image.Image{}, err
	}
	return s.Import(image.WithProgress(ctx, report), what, from)
}

func (n *imageStore) prefetch(ctx context.Context, ref string, report func(image.LayerProgress)) (image.Image, error) {
	if n.conn != nil {
		img, err := operator.NewClient(n.conn).Prefetch(ctx, ref, report)
		return img, plainError(err)
	}
	s, err := n.own()
	if err != nil {
		return image.Image{}, err
	}
	return s.Pull(image.WithProgress(ctx, report), ref, nil)
}

func (n *imageStore) remove(ctx context.Context, ref string) error {
	if n.conn != nil {
		_, err := v1.NewImageServiceClient(n.conn).RemoveImage(ctx, &v1.RemoveImageRequest{Image: &v1.ImageSpec{Image: ref}})
		return plainError(err)
	}
	s, err := n.own()
	if err != nil {
		return err
	}
	return s.Remove(ctx, ref)
}

// plainError leaves the text of what the daemon answers.
func plainError(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return errors.New(s.Message())
	}
	return err
}
