package mux

import (
	"io"
	"net"
	"testing"
)

func benchmarkThroughput(b *testing.B, size int, toGuest bool) {
	s := pair(b, Options{}, func(_ string, c net.Conn) {
		if toGuest {
			_, _ = io.Copy(io.Discard, c)
			return
		}
		_, _ = c.Read(make([]byte, 1))
		buf := make([]byte, size)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	c := open(b, s, "x")
	defer c.Close()
	buf := make([]byte, size)
	b.SetBytes(int64(size))
	if !toGuest {
		if _, err := c.Write(buf[:1]); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		var err error
		if toGuest {
			_, err = c.Write(buf)
		} else {
			_, err = io.ReadFull(c, buf)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkToGuest32K(b *testing.B) { benchmarkThroughput(b, 32<<10, true) }
func BenchmarkToHost32K(b *testing.B)  { benchmarkThroughput(b, 32<<10, false) }
func BenchmarkToHost256(b *testing.B)  { benchmarkThroughput(b, 256, false) }
func BenchmarkToHost1M(b *testing.B)   { benchmarkThroughput(b, 1<<20, false) }

// BenchmarkRoundTrip is one byte there and back on an open stream.
func BenchmarkRoundTrip(b *testing.B) {
	s := pair(b, Options{}, echo)
	c := open(b, s, "x")
	defer c.Close()
	buf := []byte{1}
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCall is a stream of its own for a byte there and back.
func BenchmarkCall(b *testing.B) {
	s := pair(b, Options{}, echo)
	buf := []byte{1}
	for b.Loop() {
		c, err := s.Begin(b.Context(), "x")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
