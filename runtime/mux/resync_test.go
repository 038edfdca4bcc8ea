package mux

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire is a port of a virtual machine: the guest's end stays, hosts come and go. As in
// QEMU, what a host has sent may be cut off anywhere, the next one's bytes follow
// without a gap, and a piece of the guest's output is lost with the host.
type wire struct {
	t     *testing.T
	guest net.Conn // the machine's side of it
}

func newWire(t *testing.T, accept func(service string, c net.Conn)) *wire {
	t.Helper()
	machine, guest := socketpair(t)
	serve(t, guest, Options{}, accept)
	return &wire{t: t, guest: machine}
}

// host lets a host in, whose first limit bytes reach the guest, and returns its end of
// the port. gone is closed when it has been cut off.
func (w *wire) host(limit int64) (port net.Conn, gone <-chan struct{}) {
	machine, host := socketpair(w.t)
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.CopyN(w.guest, machine, limit)
		machine.Close()
		w.guest.SetReadDeadline(time.Now())
	})
	wg.Go(func() {
		buf := make([]byte, 5000)
		for {
			n, err := w.guest.Read(buf)
			if err != nil {
				return
			}
			if _, err := machine.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	go func() {
		wg.Wait()
		w.guest.SetReadDeadline(time.Time{})
		close(end)
	}()
	return host, end
}

// checked is a service that reads numbered blocks and notes any that is not what it
// should be, while it floods its own output.
type checked struct {
	bad    atomic.Int64
	blocks atomic.Int64
}

const blockSize = 64

func block(n uint64) []byte {
	b := bytes.Repeat([]byte{byte(n) | 1}, blockSize) // never zero
	binary.BigEndian.PutUint64(b, n)
	return b
}

func (k *checked) serve(service string, c net.Conn) {
	defer c.Close()
	if service == "echo" {
		echo(service, c)
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for n := uint64(0); ; n++ {
			if _, err := c.Write(block(n)); err != nil {
				return
			}
		}
	})
	got := make([]byte, blockSize)
	for n := uint64(0); ; n++ {
		if m, err := io.ReadFull(c, got); err != nil {
			if !bytes.HasPrefix(block(n), got[:m]) {
				k.bad.Add(1)
			}
			return
		}
		if !bytes.Equal(got, block(n)) {
			k.bad.Add(1)
		}
		k.blocks.Add(1)
	}
}

// flood writes numbered blocks on streams of its own until the session ends.
func flood(s *Session, wg *sync.WaitGroup, streams int) {
	for i := range streams {
		c, err := s.Begin(context.Background(), fmt.Sprintf("check%d", i))
		if err != nil {
			return
		}
		wg.Go(func() {
			defer c.Close()
			for n := uint64(0); ; n++ {
				if _, err := c.Write(block(n)); err != nil {
					return
				}
			}
		})
		wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
	}
}

// TestResync cuts hosts off in the middle of what they send, many times, and has the
// next one connect at once.
func TestResync(t *testing.T) {
	const rounds = 300
	var k checked
	w := newWire(t, k.serve)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range rounds {
		limit := int64(maxFrame+headSize+helloSize+1) + random.Int64N(600<<10)
		if round%10 == 9 {
			limit = random.Int64N(int64(maxFrame + headSize + helloSize + 2)) // in its greeting
		}
		port, gone := w.host(limit)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		s, err := Connect(ctx, port, Options{})
		cancel()
		if err != nil {
			if round%10 != 9 {
				t.Fatalf("round %d: %v", round, err)
			}
			<-gone
			continue
		}
		var wg sync.WaitGroup
		flood(s, &wg, 3)
		<-gone
		s.Close()
		wg.Wait()
	}
	port, _ := w.host(1 << 30)
	s := connect(t, port, Options{})
	c := open(t, s, "echo")
	if _, err := c.Write(block(7)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, blockSize)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, block(7)) {
		t.Fatalf("%x, %v", got, err)
	}
	if k.bad.Load() > 0 || k.blocks.Load() < rounds {
		t.Fatalf("%d of %d blocks were damaged", k.bad.Load(), k.blocks.Load())
	}
	s.s.link.mu.Lock()
	defer s.s.link.mu.Unlock()
	if len(s.s.streams) != 1 || len(s.s.late) != 0 {
		t.Errorf("%d streams, %d late", len(s.s.streams), len(s.s.late))
	}
}

// TestResyncEveryByte cuts a host off after each byte of two small frames.
func TestResyncEveryByte(t *testing.T) {
	var mu sync.Mutex
	var got [][]byte
	accepted := make(chan struct{}, 100)
	w := newWire(t, func(_ string, c net.Conn) {
		b, _ := io.ReadAll(c)
		mu.Lock()
		got = append(got, b)
		mu.Unlock()
		c.Close()
		accepted <- struct{}{}
	})
	greeting := int64(maxFrame + headSize + helloSize + 1)
	frames := appendNumber(nil, kindOpen, 1, baseWindow, "x")
	start := len(frames)
	frames = appendFrame(frames, kindData, 1, []byte("abc")...)
	for cut := range len(frames) + 1 {
		port, gone := w.host(greeting + int64(cut))
		nonce := bytes.Repeat([]byte{1}, nonceSize)
		if _, err := port.Write(append(appendHello(make([]byte, maxFrame), nonce), frames...)); err != nil {
			t.Fatal(err)
		}
		<-gone
		port.Close()
		next, gone := w.host(1 << 30)
		s := connect(t, next, Options{}) // the old stream has ended when this answers
		if cut >= start {
			<-accepted
			mu.Lock()
			b := got[len(got)-1]
			mu.Unlock()
			if want := map[bool]string{true: "abc", false: ""}[cut == len(frames)]; string(b) != want {
				t.Errorf("cut after %d bytes: got %q, want %q", cut, b, want)
			}
		}
		s.Close()
		<-gone
	}
}

// TestLost has the guest find the next host after bytes that are no frames at all.
func TestLost(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	machine, guest := socketpair(t)
	serve(t, guest, Options{}, echo)
	for range 20 {
		junk := make([]byte, random.IntN(200<<10))
		for i := range junk {
			junk[i] = byte(random.Uint32())
		}
		copy(junk[len(junk)/2:], helloStart())
		nonce := bytes.Repeat([]byte{byte(random.Uint32())}, nonceSize)
		go func() { _, _ = machine.Write(appendHello(append(junk, make([]byte, maxFrame)...), nonce)) }()
		d := newDecoder(machine, false)
		machine.SetReadDeadline(time.Now().Add(5 * time.Second))
		if err := d.skipTo(append(helloStart(), nonce...), 1<<20); err != nil {
			t.Fatal(err)
		}
		if f, err := d.next(); err != nil || f.kind != kindHello {
			t.Fatalf("%v, %v", f, err)
		}
	}
}
