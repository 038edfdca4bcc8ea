package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// Serve is the guest's side of a port: it serves one host after the other, and hands
// each stream to accept in a goroutine of its own. accept closes the connection; the
// first Read, Write or CloseWrite accepts the stream, and a Close or Refuse before that
// refuses it. When a new host comes, the streams of the old one fail.
//
// Serve returns when ctx ends or the port fails, once every accept has returned. The end
// of the port's input is no failure: it says that no host is there now, and Serve tries
// again. The port is never closed, since that would discard what the next host has sent
// already. So that ctx can interrupt it, a port should have deadlines as os.File has.
func Serve(ctx context.Context, port io.ReadWriteCloser, o Options, accept func(service string, c net.Conn)) error {
	g := &guest{link: newLink(port), opt: o.withDefaults(), accept: accept}
	stop := context.AfterFunc(ctx, func() { g.end(ctx.Err()); interrupt(port, time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			interrupt(port, time.Time{})
		}
	}()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := g.link.write(); err != nil {
			g.end(err)
			interrupt(port, time.Unix(1, 0))
		}
	})
	err := g.read(newDecoder(&patient{port: port, done: ctx.Done()}, true))
	g.end(err)
	writing.Wait()
	g.accepting.Wait()
	return fmt.Errorf("serve port: %w", g.why())
}

// interrupt has reads and writes fail that block, if the port can do that.
func interrupt(port io.ReadWriteCloser, at time.Time) {
	if p, ok := port.(interface{ SetDeadline(time.Time) error }); ok {
		_ = p.SetDeadline(at) // a port that is closed needs none
	}
}

// guest is a port with its hosts, one after the other.
type guest struct {
	link      *link
	opt       Options
	accept    func(service string, c net.Conn)
	accepting sync.WaitGroup

	// Guarded by the link's lock.
	now *session // of the present host; nil before the first and after a goodbye
	err error
}

// end ends everything. The first cause counts.
func (g *guest) end(cause error) {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	if g.err != nil {
		return
	}
	g.err = cause
	g.leave(cause)
	g.link.close()
}

func (g *guest) why() error {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	return g.err
}

// leave ends the present session.
func (g *guest) leave(cause error) {
	if g.now != nil {
		g.now.fail(cause)
		g.now = nil
		g.link.ready = nil
	}
}

// read takes frames until the port fails.
func (g *guest) read(d *decoder) error {
	for {
		f, err := d.next()
		if err == nil {
			err = g.handle(&f, d)
		}
		switch {
		case err == nil:
		case errors.Is(err, errTorn):
			// A host has gone in the middle of it; the next one greets.
		case errors.Is(err, errBad):
			g.drop(err)
			if err := d.skipTo(helloStart(), math.MaxInt); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func (g *guest) handle(f *frame, d *decoder) error {
	switch f.kind {
	case kindHello:
		g.greet(f.payload)
	case kindBye:
		g.drop(errHostGone)
	case kindPing:
		g.pong()
	default:
		if now := g.present(); now != nil {
			return now.handle(f, d)
		}
		// Left over from a host that has gone.
	}
	return nil
}

// pong answers a host that is there.
func (g *guest) pong() {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	if g.now != nil {
		g.link.send(appendFrame(nil, kindPong, 0))
	}
}

// present is the session that frames are for; nil if there is none, for instance because
// the port cannot be written to any more.
func (g *guest) present() *session {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	return g.now
}

var (
	errHostGone = errors.New("host hung up")
	errNewHost  = errors.New("another host has taken over")
)

// drop ends the session and tells the host so.
func (g *guest) drop(cause error) {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	if g.now == nil {
		return
	}
	g.leave(cause)
	if !errors.Is(cause, errHostGone) {
		g.opt.Log.Warn("host breaks the protocol of its channel", "error", cause)
		g.link.send(appendText(nil, kindBye, 0, cause.Error()))
	}
}

// greet begins the session of a new host.
func (g *guest) greet(hello []byte) {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	if g.err != nil {
		return
	}
	g.leave(errNewHost)
	g.now = newSession(g.link, g.opt, false)
	g.now.accept = func(st *stream) {
		g.accepting.Go(func() { g.accept(st.service, st) })
	}
	nonce := hello[len(helloMagic) : len(helloMagic)+nonceSize]
	g.link.urgent = appendHello(nil, nonce)
	g.link.work.Signal()
}

// patient takes the end of input for the absence of a host and reads again.
type patient struct {
	port io.Reader
	done <-chan struct{}
}

const (
	firstPause = time.Millisecond
	lastPause  = 50 * time.Millisecond
)

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		n, err := p.port.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		t := time.NewTimer(pause)
		select {
		case <-p.done:
			t.Stop()
			return 0, context.Canceled
		case <-t.C:
		}
	}
}
