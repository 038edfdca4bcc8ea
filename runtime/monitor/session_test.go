package monitor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// sessionEnds are the ends of a session's connection, by what carries it.
func sessionEnds(t *testing.T) map[string]func() (client, server net.Conn) {
	return map[string]func() (client, server net.Conn){
		"socket": func() (client, server net.Conn) { return socketPair(t) },
		"channel of a machine": func() (client, server net.Conn) {
			host, guest := socketPair(t)
			ctx, cancel := context.WithCancel(context.Background())
			accepted, served := make(chan net.Conn, 1), make(chan struct{})
			go func() {
				defer close(served)
				mux.Serve(ctx, guest, mux.Options{}, func(_ string, c net.Conn) { accepted <- c })
			}()
			s, err := mux.Connect(t.Context(), host, mux.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close(); cancel(); <-served })
			if client, err = s.Begin(t.Context(), GuestService); err != nil {
				t.Fatal(err)
			}
			return client, <-accepted
		},
	}
}

func inputPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestInputOfAClientThatLeft: that a client leaves is noticed while its input waits for a
// process that does not read.
func TestInputOfAClientThatLeft(t *testing.T) {
	for name, connect := range sessionEnds(t) {
		t.Run(name, func(t *testing.T) {
			client, server := connect()
			_, stdin := inputPipe(t)
			left := make(chan bool, 1)
			go (&session{conn: server}).input(stdin, nil, func(gone bool) { left <- gone })
			for range 3 { // one fills the pipe, the others wait
				if err := writeFrame(client, frameStdin, make([]byte, maxData)); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-left:
				t.Fatal("the input has ended while its client is there")
			case <-time.After(3 * inputPatience / 2):
			}
			client.Close()
			select {
			case gone := <-left:
				if !gone {
					t.Error("the client is said to be there")
				}
			case <-time.After(10 * time.Second):
				t.Fatal("nobody notices that the client is gone")
			}
		})
	}
}

// TestSlowInputIsWhole: two clients whose input waits longer than it is waited for at once
// lose nothing of it.
func TestSlowInputIsWhole(t *testing.T) {
	const each = 4 * maxData
	r, stdin := inputPipe(t)
	for _, c := range []byte("ab") {
		client, server := socketPair(t)
		defer client.Close()
		go (&session{conn: server}).input(stdin, nil, func(bool) {})
		go sendInput(client, new(sync.Mutex), bytes.NewReader(bytes.Repeat([]byte{c}, each)))
	}
	time.Sleep(5 * inputPatience / 2)
	got := make([]byte, 2*each)
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.ReadFull(r, got); err != nil {
		t.Fatalf("%d of %d bytes: %v", n, len(got), err)
	}
	if a := bytes.Count(got, []byte("a")); a != each {
		t.Errorf("%d bytes of one client, want %d", a, each)
	}
}

// TestAttachedClientLeaves attaches to a container that never reads.
func TestAttachedClientLeaves(t *testing.T) {
	rt, err := oci.Find()
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, rt)
	req := n.run([]string{"sleep", "3600000"}, func(_ *specs.Spec, r *CreateRequest) { r.Stdin = true })
	before := descriptors(t, n.process.Process.Pid)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = n.client.Attach(ctx, req.ID, runtime.Streams{Stdin: zeros{}, Stdout: io.Discard})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("attach = %v", err)
	}
	n.eventually("its connection is closed", func() bool { return descriptors(t, n.process.Process.Pid) <= before })
}

// zeros is input without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
