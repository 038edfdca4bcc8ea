package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	// streamPort is where a probe serves in its pod.
	streamPort = 5201
	// streamTime is how long bytes are sent in either direction.
	streamTime = 2 * time.Second
	// The first byte of a connection says who sends.
	hostSends, podSends = 'i', 'o'
)

// serveStreams answers on streamPort until it is ended.
func serveStreams() error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(streamPort))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serveStream(c)
	}
}

func serveStream(c net.Conn) {
	defer c.Close()
	kind := make([]byte, 1)
	if _, err := io.ReadFull(c, kind); err != nil {
		return
	}
	if kind[0] == podSends {
		_ = send(c) // the other side counts
		return
	}
	n, err := receiveBlocks(c)
	if err == nil {
		fmt.Fprintln(c, n)
	}
}

// send sends blocks for streamTime, the last of them marked: what is between here and the
// other side may not let one direction end before the other.
func send(c io.Writer) error {
	block := make([]byte, blockSize)
	for began := time.Now(); time.Since(began) < streamTime; {
		if _, err := c.Write(block); err != nil {
			return err
		}
	}
	block[0] = 1
	_, err := c.Write(block)
	return err
}

// receiveBlocks reads to the end of the block that is marked.
func receiveBlocks(c io.Reader) (total int64, err error) {
	block := make([]byte, blockSize)
	for block[0] == 0 {
		n, err := io.ReadFull(c, block)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// receive reads until the other side ends.
func receive(c io.Reader) (int64, error) {
	return io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{c}, make([]byte, blockSize))
}

// onlyReader keeps io.Copy from leaving out the buffer.
type onlyReader struct{ io.Reader }

// streams measures what goes from here into a pod in a second, and out of it.
func streams(ctx context.Context, ip string) (in, out float64, err error) {
	address := net.JoinHostPort(ip, strconv.Itoa(streamPort))
	if in, err = stream(ctx, address, hostSends); err != nil {
		return 0, 0, err
	}
	out, err = stream(ctx, address, podSends)
	return in, out, err
}

func stream(ctx context.Context, address string, kind byte) (rate float64, err error) {
	c, err := dialProbe(ctx, address)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	return exchange(c, kind)
}

// exchange is the rate at which the other end receives, or this one.
func exchange(c io.ReadWriter, kind byte) (rate float64, err error) {
	if _, err := c.Write([]byte{kind}); err != nil {
		return 0, err
	}
	began := time.Now()
	if kind == podSends {
		n, err := receive(c)
		return rateOf(n, began), err
	}
	if err := send(c); err != nil {
		return 0, err
	}
	// What has left is not what has arrived.
	var arrived int64
	_, err = fmt.Fscan(c, &arrived)
	return rateOf(arrived, began), err
}

// dialProbe connects, again and again while the probe is not there yet.
func dialProbe(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
