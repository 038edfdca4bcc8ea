package stream

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/moby/spdystream/spdy"
)

// pieces notes what is written to it, write by write.
type pieces struct {
	net.Conn
	list [][]byte
}

func (p *pieces) Write(b []byte) (int, error) {
	p.list = append(p.list, bytes.Clone(b))
	return len(b), nil
}

func TestFramesAreWhole(t *testing.T) {
	frames := []spdy.Frame{
		&spdy.SynReplyFrame{StreamId: 1, Headers: http.Header{"a": {"b"}}},
		&spdy.DataFrame{StreamId: 1, Data: bytes.Repeat([]byte("x"), 64<<10)},
		&spdy.DataFrame{StreamId: 3, Data: []byte("y")},
		&spdy.DataFrame{StreamId: 1, Flags: spdy.DataFlagFin},
		&spdy.PingFrame{Id: 7},
		&spdy.RstStreamFrame{StreamId: 1, Status: spdy.Cancel},
		&spdy.GoAwayFrame{LastGoodStreamId: 1},
	}
	var loose, whole pieces
	for _, to := range []net.Conn{&loose, &frameConn{Conn: &whole}} {
		framer, err := spdy.NewFramer(to, to)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			if err := framer.WriteFrame(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(whole.list) != len(frames) || len(loose.list) <= len(frames) {
		t.Errorf("%d frames took %d writes, and %d where they are not held back", len(frames), len(whole.list), len(loose.list))
	}
	if !bytes.Equal(bytes.Join(whole.list, nil), bytes.Join(loose.list, nil)) {
		t.Error("other bytes were written")
	}
}

// TestOnlySPDYIsFramed upgrades connections to several protocols.
func TestOnlySPDYIsFramed(t *testing.T) {
	for protocol, want := range map[string]bool{"SPDY/3.1": true, "spdy/3.1": true, "websocket": false, "": false} {
		framed := make(chan bool, 1)
		s := httptest.NewServer(wholeFrames(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, is := conn.(*frameConn)
			framed <- is
		})))
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Upgrade", protocol)
		if resp, err := http.DefaultClient.Do(r); err == nil { // the connection is closed without an answer
			resp.Body.Close()
		}
		if got := <-framed; got != want {
			t.Errorf("%q: framed %t, want %t", protocol, got, want)
		}
		s.Close()
	}
}
