package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// hostile greets back and then sends what it is told.
type hostile struct {
	net.Conn
	d *decoder
}

func newHostile(t testing.TB) (*Session, *hostile) {
	t.Helper()
	host, guest := socketpair(t)
	h := &hostile{Conn: guest, d: newDecoder(guest, true)}
	go func() {
		f, err := h.d.next()
		if err == nil {
			nonce := slices.Clone(f.payload[len(helloMagic) : len(helloMagic)+nonceSize])
			_, _ = guest.Write(appendHello([]byte("what is left of before"), nonce))
		}
	}()
	return connect(t, host, Options{}), h
}

// TestHostileGuest sends what no honest guest sends: each ends the session.
func TestHostileGuest(t *testing.T) {
	accept := func(window int) []byte { return appendNumber(nil, kindAccept, 1, window, "") }
	data := func(n int) []byte { return appendFrame(nil, kindData, 1, make([]byte, n)...) }
	window := func(n int) []byte { return appendNumber(nil, kindWindow, 1, n, "") }
	end := func(kind byte) []byte { return appendFrame(nil, kind, 1) }
	for name, sent := range map[string][][]byte{
		"padding":              {make([]byte, 100)},
		"unknown kind":         {appendFrame(nil, 99, 1)},
		"no mark":              {accept(1 << 20)[:12]},
		"torn":                 {append(appendFrame(nil, kindEOF, 1)[:headSize], make([]byte, 50)...)},
		"too long":             {{kindData, 255, 255, 0, 0, 0, 1}},
		"unknown stream":       {appendFrame(nil, kindData, 2, 1)},
		"stream 0":             {appendFrame(nil, kindData, 0, 1)},
		"opens":                {appendNumber(nil, kindOpen, 5, baseWindow, "x")},
		"pongs unasked":        {appendFrame(nil, kindPong, 0)},
		"pings":                {appendFrame(nil, kindPing, 0)},
		"greets":               {appendHello(nil, make([]byte, nonceSize))},
		"data unanswered":      {data(1)},
		"end unanswered":       {end(kindClose)},
		"window unanswered":    {window(1)},
		"accepts twice":        {accept(baseWindow), accept(baseWindow)},
		"accepts too much":     {accept(maxWindow + 1)},
		"refuses after all":    {accept(baseWindow), appendText(nil, kindRefuse, 1, "no")},
		"empty data":           {accept(baseWindow), data(0)},
		"window of nothing":    {accept(baseWindow), window(0)},
		"window unused":        {accept(baseWindow), window(1)},
		"window huge":          {accept(baseWindow), window(1<<32 - 1)},
		"ends twice":           {accept(baseWindow), end(kindEOF), end(kindEOF)},
		"data after the end":   {accept(baseWindow), end(kindEOF), data(1)},
		"closes twice":         {accept(baseWindow), end(kindClose), end(kindClose)},
		"more than the window": {accept(baseWindow), bytes.Repeat(data(1<<12), defaultWindow>>12), data(1)},
	} {
		t.Run(name, func(t *testing.T) {
			s, h := newHostile(t)
			c, err := s.Begin(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			for {
				if f, err := h.d.next(); err != nil {
					t.Fatal(err)
				} else if f.kind == kindOpen {
					break
				}
			}
			for _, b := range sent {
				if _, err := h.Write(b); err != nil {
					break
				}
			}
			if _, err := h.Write(make([]byte, maxFrame)); err == nil {
				select {
				case <-s.Done():
				case <-time.After(5 * time.Second):
					t.Fatal("the session goes on")
				}
			}
			<-s.Done()
			if err := s.Err(); !errors.Is(err, errBad) && !errors.Is(err, errTorn) {
				t.Error(err)
			}
			_, _ = io.Copy(io.Discard, c)
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("read goes on")
			}
		})
	}
}

// TestLateFlood has a guest send to a stream that the host has closed: what was under
// way at most.
func TestLateFlood(t *testing.T) {
	for _, tc := range []struct {
		bytes int
		fine  bool
	}{{defaultWindow, true}, {defaultWindow + 1<<12, false}} {
		s, h := newHostile(t)
		c, err := s.Begin(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		for kind := byte(0); kind != kindClose; {
			f, err := h.d.next()
			if err != nil {
				t.Fatal(err)
			}
			kind = f.kind
		}
		b := appendNumber(nil, kindAccept, 1, baseWindow, "")
		b = append(b, bytes.Repeat(appendFrame(nil, kindData, 1, make([]byte, 1<<12)...), tc.bytes>>12)...)
		b = appendText(b, kindBye, 0, "done\x00")
		_, _ = h.Write(b)
		<-s.Done()
		if err := s.Err(); errors.Is(err, errBad) == tc.fine {
			t.Errorf("%d bytes: %v", tc.bytes, err)
		}
	}
}

// TestNoAnswer has a guest send anything but the greeting for ever.
func TestNoAnswer(t *testing.T) {
	host, guest := socketpair(t)
	go func() {
		for {
			if _, err := guest.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	if _, err := Connect(t.Context(), host, Options{}); !errors.Is(err, errBad) {
		t.Error(err)
	}
}

// FuzzHost feeds a host with a guest's bytes: it must not panic, hang or keep more than
// its budget.
func FuzzHost(f *testing.F) {
	accept := appendNumber(nil, kindAccept, 1, 1<<20, "")
	f.Add(append(slices.Clone(accept), appendFrame(nil, kindData, 1, []byte("abc")...)...))
	f.Add(append(slices.Clone(accept), appendFrame(nil, kindClose, 1)...))
	f.Add(appendText(nil, kindRefuse, 2, "no"))
	f.Add(appendNumber(accept, kindWindow, 1, 5, ""))
	f.Add(appendHello(appendText(nil, kindBye, 0, "x"), make([]byte, nonceSize)))
	f.Fuzz(func(t *testing.T, sent []byte) {
		l := newLink(io.Discard)
		s := &Session{s: newSession(l, Options{Budget: 1 << 20, MaxStreams: 8}.withDefaults(), true), port: io.NopCloser(nil)}
		var conns []net.Conn
		for range 8 {
			c, err := s.Begin(context.Background(), "x")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte("hello"))
			conns = append(conns, c)
		}
		l.take(nil)
		conns[7].Close()
		l.take(nil)
		s.end(s.read(newDecoder(bytes.NewReader(sent), false)))
		size := 0
		for _, c := range conns {
			for _, p := range c.(*stream).in.parts {
				size += cap(p)
			}
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
		if size > 2<<20 {
			t.Errorf("%d bytes kept", size)
		}
	})
}

// FuzzGuest feeds a guest with a host's bytes, after which the next host must be heard.
func FuzzGuest(f *testing.F) {
	nonce := bytes.Repeat([]byte{5}, nonceSize)
	hello := appendHello(nil, nonce)
	open := appendNumber(hello, kindOpen, 1, 1<<20, "x")
	f.Add(appendFrame(slices.Clone(open), kindData, 1, []byte("abc")...))
	f.Add(appendFrame(slices.Clone(open), kindClose, 1))
	f.Add(appendNumber(slices.Clone(open), kindWindow, 1, 5, ""))
	f.Add(append(slices.Clone(open), kindData, 255, 3))
	f.Add(append(slices.Clone(open), helloStart()...))
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		next := bytes.Repeat([]byte{6}, nonceSize)
		sent = append(append(slices.Clone(sent), make([]byte, maxFrame)...), appendHello(nil, next)...)
		l := newLink(io.Discard)
		g := &guest{link: l, opt: Options{}.withDefaults(), accept: func(_ string, c net.Conn) { c.Close() }}
		err := g.read(newDecoder(bytes.NewReader(sent), true))
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		g.accepting.Wait()
		if out := l.take(nil); !bytes.Contains(out, appendHello(nil, next)) {
			t.Errorf("the next host is not answered: %x", out)
		}
	})
}
