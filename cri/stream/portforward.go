package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// linger is how long a client may go on sending after the pod has closed its side, and
// how long the pod may take to read what a client sent that has left.
const linger = 10 * time.Second

// PortForward carries bytes between a client's stream and a port of a sandbox. Either
// side may close its half first; what is under way in the other direction is
// delivered. The pod may take its time with an answer, but no longer than there is a
// client. The library's ctx never ends, so the server's bounds the session.
func (s sessions) PortForward(_ context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	s.wg.Add(1)
	defer s.wg.Done()
	present, leave := context.WithCancel(sessionOf(s.ctx, stream))
	defer leave()
	sb, err := s.targets.Sandbox(id)
	if err != nil {
		return err
	}
	conn, err := sb.Dial(present, int(port))
	if err != nil {
		return fmt.Errorf("connect to port: %w", err)
	}
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	if !halfCloses(stream) {
		stream = &whole{stream, leave}
	}
	return forward(s.ctx, present, conn, stream)
}

// forward ends with ctx at once, and when its client is not present any more.
func forward(ctx, present context.Context, conn net.Conn, stream io.ReadWriteCloser) error {
	toPod, toClient := make(chan error, 1), make(chan error, 1)
	go func() { toPod <- sendToPod(conn, stream) }()
	go func() {
		_, err := io.Copy(stream, conn)
		stream.Close() // the client sees the end of what the pod sends
		toClient <- err
	}()
	var err error
	select {
	case err = <-toClient:
	case <-present.Done(): // what it has sent is delivered; nobody is there for an answer
	}
	select {
	case sendErr := <-toPod:
		err = errors.Join(err, sendErr)
	case <-time.After(linger):
		err = errors.Join(err, release(conn, stream), <-toPod)
	case <-ctx.Done():
		err = errors.Join(err, release(conn, stream), <-toPod)
	}
	conn.Close()
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return ctx.Err()
	}
	return err
}

func sendToPod(conn net.Conn, stream io.Reader) error {
	_, err := io.Copy(conn, stream)
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if closeErr := half.CloseWrite(); !errors.Is(closeErr, syscall.ENOTCONN) { // the pod left first
			err = errors.Join(err, closeErr)
		}
		return err
	}
	return errors.Join(err, conn.Close())
}

// halfCloses tells whether a client can end a stream and still be there: a stream of SPDY
// can be reset besides. The library's WebSockets know only the end of all.
func halfCloses(stream any) bool {
	_, ok := stream.(interface{ Reset() error })
	return ok
}

// whole is a stream without a half-close: with its input the session is over.
type whole struct {
	io.ReadWriteCloser
	leave context.CancelFunc
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.ReadWriteCloser.Read(p)
	if err != nil {
		w.leave()
	}
	return n, err
}

// release ends reads from the stream and writes to the connection.
func release(conn net.Conn, stream io.Closer) error {
	conn.Close()
	if r, ok := stream.(interface{ Reset() error }); ok {
		return r.Reset()
	}
	return stream.Close()
}
