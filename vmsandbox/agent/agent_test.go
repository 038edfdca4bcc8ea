package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/mux"
	"github.com/cricket-cri/cricket/runtime/wirekind"
)

// stand is a guest that notes what it was asked and answers what it is told.
type stand struct {
	mu        sync.Mutex
	calls     []any
	info      Info
	stat      Stat
	processes map[string]runtime.ProcessStat
	file      File
	err       error
	block     bool
	ended     chan error
	panic     string
}

func (s *stand) note(ctx context.Context, op string, v any) error {
	s.mu.Lock()
	s.calls = append(s.calls, op, v)
	s.mu.Unlock()
	if s.panic != "" {
		panic(s.panic)
	}
	if s.block {
		<-ctx.Done()
		s.ended <- ctx.Err()
		return ctx.Err()
	}
	return s.err
}

func (s *stand) Hello(ctx context.Context) (Info, error) { return s.info, s.note(ctx, "hello", nil) }
func (s *stand) Identify(ctx context.Context, id Identity) error {
	return s.note(ctx, "identify", id)
}
func (s *stand) Step(ctx context.Context, by time.Duration) (int64, error) {
	return 99, s.note(ctx, "step", by)
}
func (s *stand) Connect(ctx context.Context, n Network) error { return s.note(ctx, "connect", n) }
func (s *stand) Sysctl(ctx context.Context, v map[string]string) error {
	return s.note(ctx, "sysctl", v)
}
func (s *stand) Mount(ctx context.Context, m Mount) error    { return s.note(ctx, "mount", m) }
func (s *stand) Unmount(ctx context.Context, p string) error { return s.note(ctx, "unmount", p) }
func (s *stand) Put(ctx context.Context, f []File) error     { return s.note(ctx, "put", f) }
func (s *stand) Get(ctx context.Context, p string) (File, error) {
	return s.file, s.note(ctx, "get", p)
}
func (s *stand) Remove(ctx context.Context, p []string) error { return s.note(ctx, "remove", p) }
func (s *stand) Stat(ctx context.Context) (Stat, error)       { return s.stat, s.note(ctx, "stat", nil) }
func (s *stand) Processes(ctx context.Context) (map[string]runtime.ProcessStat, error) {
	return s.processes, s.note(ctx, "processes", nil)
}
func (s *stand) Limit(ctx context.Context, r *specs.LinuxResources) error {
	return s.note(ctx, "limit", r)
}
func (s *stand) Online(ctx context.Context, added int64) error { return s.note(ctx, "online", added) }
func (s *stand) Freeze(ctx context.Context, names []string) (map[string]int64, error) {
	return map[string]int64{"a": 7}, s.note(ctx, "freeze", names)
}
func (s *stand) Thaw(ctx context.Context, names []string) error { return s.note(ctx, "thaw", names) }
func (s *stand) Sync(ctx context.Context, drop bool) error      { return s.note(ctx, "sync", drop) }

func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) net.Conn {
		f := os.NewFile(uintptr(fd), "socketpair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	return conn(fds[0]), conn(fds[1])
}

// begin has a guest answer over a multiplexed channel.
func begin(t testing.TB, g Guest) *Client {
	t.Helper()
	host, guest := socketpair(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = mux.Serve(ctx, guest, mux.Options{}, func(_ string, c net.Conn) { ServeCall(ctx, c, g) })
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	s, err := mux.Connect(t.Context(), host, mux.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return NewClient(s.Begin)
}

func ptr[T any](v T) *T { return &v }

func TestCalls(t *testing.T) {
	now := time.Now().UTC().Round(0)
	s := &stand{
		info: Info{
			Version: 1, Kernel: "6.12", MemoryBytes: 1 << 30, CPUs: 2, Capabilities: []string{"CAP_KILL"}, FileSystems: []string{"erofs"},
			Devices: []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, FileMode: ptr(os.FileMode(0o666))}},
		},
		stat: Stat{
			Guest: runtime.Stat{At: now, CPUNanos: ptr(uint64(5))}, Pod: runtime.Stat{At: now},
			Containers: map[string]runtime.Stat{"abc": {At: now, Pids: ptr(uint64(3)), IO: runtime.IOStats{{Major: 254, Device: "/dev/vdb", ReadBytes: 4}}, CPUPressure: &runtime.Pressure{Some: runtime.PressureLine{Avg10: 1.5}}}},
			Network:    []runtime.NetworkStat{{Name: "eth0", RxBytes: 7}},
			Disks: map[string]runtime.DiskUsage{"rw0": {
				At: now, Bytes: 9, Inodes: 2, FS: &runtime.FSStat{Device: "/dev/vda", Bytes: 8, FreeInodes: 3},
			}},
		},
		processes: map[string]runtime.ProcessStat{"abc": {Processes: 2, Sockets: 1, MaxOpenFiles: ptr(uint64(9))}},
		file:      File{Path: "elsewhere", Mode: unix.S_IFREG | 0o644, Content: []byte("x")},
	}
	c, ctx := begin(t, s), t.Context()
	id := Identity{UnixNanos: 5, Entropy: make([]byte, 32), MachineID: strings.Repeat("ab", 16), Hostname: "pod"}
	network := Network{
		Name: "eth0", MAC: "02:00:00:00:00:01", MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")},
		Routes: []Route{
			{Destination: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.1")},
			{Destination: netip.MustParsePrefix("fd00::/64")},
		},
	}
	mount := Mount{Slot: "ro0", Target: DirDisks + "/ro0", Type: "erofs", Options: []string{"ro"}}
	file := File{Path: DirVolumes + "/a", Mode: unix.S_IFREG | 0o600, UID: 1, Content: []byte("abc"), Replace: true}
	limits := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5))}}
	info, err1 := c.Hello(ctx)
	stat, err2 := c.Stat(ctx)
	got, err3 := c.Get(ctx, "/etc/hosts")
	processes, err4 := c.Processes(ctx)
	clock, err5 := c.Step(ctx, -time.Second)
	err := errors.Join(err1, err2, err3, err4, err5, c.Identify(ctx, id), c.Connect(ctx, network),
		c.Sysctl(ctx, map[string]string{"net.ipv4.ip_forward": "1"}), c.Mount(ctx, mount), c.Unmount(ctx, DirShared),
		c.Put(ctx, []File{file}), c.Remove(ctx, []string{DirLogs + "/x"}), c.Limit(ctx, limits), c.Online(ctx, 1<<40), c.Sync(ctx, true))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range [][2]any{{info, s.info}, {stat, s.stat}, {processes, s.processes}, {clock, int64(99)}, {got, File{Path: "/etc/hosts", Mode: s.file.Mode, Content: s.file.Content}}} {
		if !reflect.DeepEqual(tc[0], tc[1]) {
			t.Errorf("got %+v, want %+v", tc[0], tc[1])
		}
	}
	want := []any{
		"hello", nil, "stat", nil, "get", "/etc/hosts", "processes", nil, "step", -time.Second, "identify", id, "connect", network,
		"sysctl", map[string]string{"net.ipv4.ip_forward": "1"}, "mount", mount, "unmount", DirShared,
		"put", []File{file}, "remove", []string{DirLogs + "/x"}, "limit", limits, "online", int64(1 << 40), "sync", true,
	}
	if !reflect.DeepEqual(s.calls, want) {
		t.Errorf("got  %+v\nwant %+v", s.calls, want)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	s := &stand{}
	c := begin(t, s)
	for _, kind := range wirekind.All() {
		s.err = fmt.Errorf("mount\n%s: %w", strings.Repeat("x", 2000), kind)
		err := c.Online(t.Context(), 0)
		if !errors.Is(err, kind) || len(err.Error()) > 1100 || !strings.HasPrefix(err.Error(), "guest: mount?x") {
			t.Errorf("%v: %v", kind, err)
		}
	}
	s.err = errors.New("something")
	if err := c.Online(t.Context(), 0); !errdefs.IsInternal(err) {
		t.Error(err)
	}
	s.panic = "oh"
	if err := c.Online(t.Context(), 0); !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "oh") {
		t.Error(err)
	}
}

func TestContexts(t *testing.T) {
	s := &stand{block: true, ended: make(chan error, 1)}
	c := begin(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.Online(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	<-s.ended
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	if err := c.Online(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-s.ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := c.Online(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestPutInPieces(t *testing.T) {
	s := &stand{}
	c := begin(t, s)
	var files []File
	for i := range 30 {
		files = append(files, File{Path: fmt.Sprintf("%s/%d", DirVolumes, i), Mode: unix.S_IFREG, Content: make([]byte, 1<<20)})
	}
	if err := c.Put(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	var got []File
	for i := 1; i < len(s.calls); i += 2 {
		got = append(got, s.calls[i].([]File)...)
	}
	if len(s.calls) < 8 || !reflect.DeepEqual(got, files) {
		t.Errorf("%d calls, %d files", len(s.calls)/2, len(got))
	}
	files[0].Content = make([]byte, 16<<20)
	if err := c.Put(t.Context(), files[:1]); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
}

func TestGone(t *testing.T) {
	c := NewClient(func(context.Context, string) (net.Conn, error) { return nil, io.EOF })
	if err := c.Online(t.Context(), 0); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	a, b := socketpair(t)
	c = NewClient(func(context.Context, string) (net.Conn, error) { return a, nil })
	b.Close()
	if err := c.Online(t.Context(), 0); !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

// answering is a client whose guest answers raw.
func answering(t testing.TB, raw []byte) *Client {
	return NewClient(func(context.Context, string) (net.Conn, error) {
		host, guest := socketpair(t)
		go func() {
			defer guest.Close()
			if _, _, err := readMessage(guest, maxRequest); err == nil {
				_, _ = guest.Write(raw)
			}
		}()
		return host, nil
	})
}

func message(text, content string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(text)+len(content)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(append(b, text...), content...)
}
