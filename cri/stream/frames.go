package stream

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"strings"
)

// The SPDY library writes a frame in pieces: four bytes, four bytes, and the payload. On a
// connection that delays nothing each of them is a segment of its own, which wakes the
// client up. Here frames are held back until they are whole.

// wholeFrames has h send SPDY by whole frames.
func wholeFrames(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(strings.ToUpper(r.Header.Get("Upgrade")), "SPDY/") {
			w = framingWriter{w, r.Context()}
		}
		h.ServeHTTP(w, r)
	})
}

// framingWriter is a response whose connection, once it is taken over, sends whole frames.
type framingWriter struct {
	http.ResponseWriter
	session context.Context
}

// Hijack implements http.Hijacker.
func (w framingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return &frameConn{Conn: conn, session: w.session}, rw, nil
}

// Unwrap is for http.ResponseController.
func (w framingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// frameHead is how long the head of a SPDY/3.1 frame is, of either kind. Its last three bytes
// are the length of what follows.
const frameHead = 8

// frameConn is a connection to which only SPDY frames are written, one at a time.
type frameConn struct {
	net.Conn
	held    []byte          // the beginning of a frame
	session context.Context // ends with the connection, and with the library's handler
}

// RemoteAddr implements net.Conn; sessionOf reads it.
func (c *frameConn) RemoteAddr() net.Addr { return sessionAddr{c.Conn.RemoteAddr(), c.session} }

// Write holds b back until it ends a frame, whose error it answers then.
func (c *frameConn) Write(b []byte) (int, error) {
	c.held = append(c.held, b...)
	if len(c.held) < frameHead {
		return len(b), nil
	}
	if length := binary.BigEndian.Uint32(c.held[frameHead-4:]) & 0xffffff; len(c.held) < frameHead+int(length) {
		return len(b), nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	if err != nil {
		return 0, err
	}
	return len(b), nil
}
