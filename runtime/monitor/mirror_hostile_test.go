package monitor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/runtime/oci"
)

// hostile guests, by what they do with a call for a log. Each goes on until the host
// hangs up.
var hostile = map[string]func(c net.Conn){
	"says nothing": func(c net.Conn) { io.Copy(io.Discard, c) },
	"logs junk": func(c net.Conn) {
		junk := bytes.Repeat([]byte("junk\n"), 12_000)
		sendLog(c, 0, junk, int64(len(junk)))
	},
	"logs a line without an end": func(c net.Conn) {
		sendLog(c, 0, bytes.Repeat([]byte("z"), 60_000), 60_000)
	},
	"logs tiny lines": func(c net.Conn) {
		line := []byte(logStamp + " stdout F tiny\n")
		sendLog(c, 0, line, int64(len(line)))
	},
	"goes back": func(c net.Conn) {
		line := []byte(logStamp + " stdout F back\n")
		sendLog(c, 1<<40, line, -1)
	},
	"jumps": func(c net.Conn) {
		line := []byte(logStamp + " stdout F jump\n")
		sendLog(c, 0, line, 1<<50)
	},
	"sends frames that are none": func(c net.Conn) {
		for {
			if _, err := c.Write([]byte{200, 255, 255, 255, 255}); err != nil {
				return
			}
		}
	},
	"answers at length": func(c net.Conn) {
		head := binary.BigEndian.AppendUint32([]byte{frameHeader}, 1<<31)
		c.Write(head)
		for {
			if _, err := c.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	},
	"answers nonsense":  func(c net.Conn) { writeFrame(c, frameHeader, []byte("{]")) },
	"hangs up":          func(net.Conn) {},
	"says unavailable":  func(c net.Conn) { writeFrame(c, frameHeader, []byte(`{"v":1,"kind":"unavailable","error":"x"}`)) },
	"claims to be over": func(c net.Conn) { writeFrame(c, frameHeader, []byte(`{"v":1}`)) },
}

// sendLog sends frames for ever, the offset growing by step.
func sendLog(c net.Conn, at int64, p []byte, step int64) {
	for {
		frame := append(binary.BigEndian.AppendUint64(nil, uint64(at)), p...)
		if writeFrame(c, frameLog, frame) != nil {
			return
		}
		at += step
	}
}

// Guests that send what they like hurt nobody but themselves: they get no line into
// their log that is none, nor more than their budget, the monitor stays small and
// responsive, and the log of an honest guest is complete.
func TestHostileGuests(t *testing.T) {
	guest, host := newNode(t, guestRuntime(t)), newNode(t, oci.Runtime{})
	const rate = 1 << 20
	var taken atomic.Int64
	began := time.Now()
	var logs []string
	i := 0
	for name, act := range hostile {
		vm := newMachine(t, func(_ string, c net.Conn) {
			defer c.Close()
			readFrame(c, nil)
			act(&counted{Conn: c, n: &taken})
		})
		r := MirrorRequest{ID: fmt.Sprint("hostile-", i), Socket: vm.socket, LogPath: fmt.Sprintf("%s/hostile-%d.log", host.dir, i), MaxRate: rate}
		if err := host.client.Mirror(t.Context(), r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		logs = append(logs, r.LogPath)
		i++
	}
	vm := newMachine(t, guest.offer)
	req := guest.run([]string{"flood", "5", "2000"}, nil)
	honest := host.mirror(vm, req.ID)
	var worst time.Duration
	for time.Since(began) < 2*time.Second {
		asked := time.Now()
		if _, err := host.client.Hello(t.Context()); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(asked))
		time.Sleep(5 * time.Millisecond)
	}
	if err := host.flush(honest.ID); err != nil {
		t.Errorf("the honest guest: %v", err)
	}
	if lines := exact(t, host.text(honest.LogPath, "stdout")); lines < 50_000 {
		t.Errorf("the honest guest has %d lines", lines)
	}
	seconds := time.Since(began).Seconds()
	rss := residentKB(t, host.process.Process.Pid)
	t.Logf("%d MiB taken in %.1f s, monitor %d KiB, worst answer %v", taken.Load()>>20, seconds, rss, worst)
	// What is under way in windows and sockets comes on top.
	if limit := float64(len(hostile)) * (rate*(seconds+1) + 1<<20); float64(taken.Load()) > limit {
		t.Errorf("%d bytes taken, want at most %.0f", taken.Load(), limit)
	}
	if rss > 100<<10 {
		t.Errorf("the monitor has %d KiB", rss)
	}
	if worst > time.Second {
		t.Errorf("an answer took %v", worst)
	}
	for i, log := range logs {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			if !validLine(bytes.TrimSuffix(line, []byte("\n")), 16<<10) {
				t.Fatalf("the log has the line %q", line[:min(len(line), 100)])
			}
		}
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err = host.client.FlushLog(short, fmt.Sprint("hostile-", i))
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Logf("flush: %v", err)
		}
		asked := time.Now()
		if err := host.client.Delete(t.Context(), fmt.Sprint("hostile-", i)); err != nil {
			t.Error(err)
		}
		if took := time.Since(asked); took > 3*time.Second {
			t.Errorf("delete took %v", took)
		}
	}
}

// A guest whose channel is garbage is tried again, ever more rarely.
func TestMirrorOfGarbledChannel(t *testing.T) {
	host := newNode(t, oci.Runtime{})
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/p")
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			go func() {
				defer c.Close()
				go io.Copy(io.Discard, c)
				for {
					if _, err := c.Write(bytes.Repeat([]byte("garbage"), 1000)); err != nil {
						return
					}
				}
			}()
		}
	}()
	r := MirrorRequest{ID: "garbled", Socket: dir + "/p", LogPath: dir + "/log"}
	if err := host.client.Mirror(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	before := cpuTicks(t, host.process.Process.Pid)
	time.Sleep(3 * time.Second)
	used := cpuTicks(t, host.process.Process.Pid) - before
	t.Logf("%d attempts, %d ms of processor in 3 s", tries.Load(), used*10)
	if n := tries.Load(); n < 2 || n > 12 {
		t.Errorf("%d attempts in 3 s", n)
	}
	if used > 100 {
		t.Errorf("%d ms of processor in 3 s", used*10)
	}
	l.Close()
	if err := host.client.Delete(t.Context(), r.ID); err != nil {
		t.Error(err)
	}
}

type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func residentKB(t *testing.T, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// cpuTicks is user and system time in hundredths of a second.
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}
