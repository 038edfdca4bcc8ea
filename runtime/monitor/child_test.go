package monitor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cricket-cri/cricket/runtime"
	"github.com/cricket-cri/cricket/runtime/oci"
)

// spawn starts the payload as a process of the host.
func (n *node) spawn(files []*os.File, args ...string) SpawnRequest {
	n.t.Helper()
	id := fmt.Sprintf("mp%d-%d", os.Getpid(), nodes.Add(1))
	r := SpawnRequest{ID: id, Sandbox: "pod", Args: append([]string{programs.payload}, args...), Env: []string{"GOMAXPROCS=1"},
		LogPath: filepath.Join(n.dir, id+".log")}
	if _, err := n.client.Spawn(n.t.Context(), r, files); err != nil {
		n.t.Fatalf("spawn: %v", err)
	}
	return r
}

func (n *node) logged(path, text string) {
	n.t.Helper()
	n.eventually("the log has "+text, func() bool {
		b, _ := os.ReadFile(path)
		return strings.Contains(string(b), text)
	})
}

// A process keeps the descriptors it was given, its number and its output over the
// death of two monitors and a re-exec, and then ends with its own exit code.
func TestSpawnedProcessOutlivesMonitors(t *testing.T) {
	inherit(t)
	n := newNode(t, oci.Runtime{})
	l, err := net.Listen("unix", filepath.Join(n.dir, "served"))
	if err != nil {
		t.Fatal(err)
	}
	given, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.CreateTemp(n.dir, "other")
	if err != nil {
		t.Fatal(err)
	}
	r := n.spawn([]*os.File{given, other}, "serve", "4")
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	given.Close()
	n.logged(r.LogPath, "serving")
	st, err := n.client.State(t.Context(), r.ID)
	if err != nil || st.Phase != runtime.Running || st.Pid == 0 {
		t.Fatalf("state = %+v, %v", st, err)
	}
	say := func(word string) {
		t.Helper()
		conn, err := net.Dial("unix", filepath.Join(n.dir, "served"))
		if err != nil {
			t.Fatalf("the process does not serve: %v", err)
		}
		defer conn.Close()
		fmt.Fprint(conn, word)
		conn.(*net.UnixConn).CloseWrite()
		if b, err := io.ReadAll(conn); err != nil || string(b) != "got "+word {
			t.Fatalf("it answers %q, %v", b, err)
		}
		n.logged(r.LogPath, "got "+word)
	}
	say("one")
	for _, how := range []string{"two", "three"} {
		n.kill()
		if how == "three" { // while there is no monitor at all
			conn, err := net.Dial("unix", filepath.Join(n.dir, "served"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, "nobody")
			conn.Close()
		}
		n.start()
		say(how)
	}
	n.logged(r.LogPath, "got nobody")
	if err := n.client.Reexec(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.eventually("the monitor answers", func() bool { _, err := n.client.Hello(t.Context()); return err == nil })
	say("four")
	if again, err := n.client.State(t.Context(), r.ID); err != nil || again.Pid != st.Pid || !again.StartedAt.Equal(st.StartedAt) {
		t.Errorf("state = %+v, %v, want %+v", again, err, st)
	}
	say("quit")
	if exit := n.wait(r.ID); exit.Code != 6 || exit.Unknown {
		t.Errorf("exit = %+v, want 6", exit)
	}
	if b, err := os.ReadFile(other.Name()); err != nil || string(b) != "one two nobody three four quit " {
		t.Errorf("the file that was passed has %q, %v", b, err)
	}
	entries, err := n.client.List(t.Context())
	if err != nil || len(entries) != 1 || entries[0].Kind != KindProcess || entries[0].Sandbox != "pod" || entries[0].State.Phase != runtime.Exited {
		t.Errorf("list = %+v, %v", entries, err)
	}
	for range 2 {
		if err := n.client.Delete(t.Context(), r.ID); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(n.dir + "/state/*" + r.ID + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSpawnedProcessEndsWithoutMonitor(t *testing.T) {
	inherit(t)
	n := newNode(t, oci.Runtime{})
	r := n.spawn(nil, "sleep", "3600000")
	st, _ := n.client.State(t.Context(), r.ID)
	n.kill()
	unix.Kill(st.Pid, unix.SIGKILL)
	n.eventually("it is gone", func() bool { _, err := readProc(st.Pid); return err != nil })
	n.start()
	began := time.Now()
	if exit := n.wait(r.ID); exit.Code != -1 || !exit.Unknown {
		t.Errorf("exit = %+v, want unknown", exit)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v to say so", took)
	}
}

// A monitor that was killed before it could note the process leaves none.
func TestSpawnNotNoted(t *testing.T) {
	inherit(t)
	n := newNode(t, oci.Runtime{})
	r := n.spawn(nil, "family")
	st, _ := n.client.State(t.Context(), r.ID)
	bystander := n.spawn(nil, "sleep", "3600000")
	n.logged(r.LogPath, "family ready")
	family := map[int]uint64{st.Pid: 0}
	addTree(family, st.Pid, candidates(cgroup{}))
	if len(family) < 8 {
		t.Fatalf("only %d processes", len(family))
	}
	n.kill()
	records := shelf{dir: filepath.Join(n.dir, "state")}
	all, _ := load[childRecord](records, childSuffix)
	for _, rec := range all {
		if rec.Request.ID == r.ID {
			rec.Init = Created{}
			if err := records.save(r.ID, childSuffix, rec); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.start()
	for pid := range family {
		if st, err := readProc(pid); err == nil && !st.dead() {
			t.Errorf("process %d is left", pid)
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	if _, err := n.client.State(t.Context(), r.ID); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("state: %v, want not found", err)
	}
	if st, err := n.client.State(t.Context(), bystander.ID); err != nil || st.Phase != runtime.Running {
		t.Errorf("the other process is %+v, %v", st, err)
	}
}

func TestDeleteSpawnedFamily(t *testing.T) {
	n := newNode(t, oci.Runtime{})
	r := n.spawn(nil, "family")
	n.logged(r.LogPath, "family ready")
	st, _ := n.client.State(t.Context(), r.ID)
	family := map[int]uint64{st.Pid: 0}
	addTree(family, st.Pid, candidates(cgroup{}))
	if err := n.client.Delete(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	for pid := range family {
		if st, err := readProc(pid); err == nil && !st.dead() {
			t.Errorf("process %d is left", pid)
			unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func TestSpawnIntoCgroup(t *testing.T) {
	n := newNode(t, oci.Runtime{})
	path := programs.cgroup + "/spawn"
	var made []string
	roots, _ := filepath.Glob(cgroupRoot + "/*/cgroup.procs")
	for _, procs := range append(roots, cgroupRoot+"/cgroup.procs") {
		root := filepath.Dir(procs)
		if filepath.Base(root) == "cpuset" || strings.Contains(filepath.Base(root), ",") || !exists(procs) {
			continue // wants to be set up first; is there under another name
		}
		if st, err := os.Lstat(root); err != nil || !st.IsDir() {
			continue
		}
		if err := os.MkdirAll(root+path, 0o755); err != nil {
			t.Fatal(err)
		}
		made = append(made, root+path)
	}
	if len(made) == 0 {
		t.Fatal("there are no cgroups")
	}
	id := fmt.Sprintf("mp%d-%d", os.Getpid(), nodes.Add(1))
	r := SpawnRequest{ID: id, Args: []string{"/bin/sh", "-c", "while read line; do echo $line; done < /proc/self/cgroup; exec sleep 3600"}, Env: []string{"PATH=/bin:/usr/bin"},
		Cgroup: path, LogPath: filepath.Join(n.dir, "log")}
	if _, err := n.client.Spawn(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	st, _ := n.client.State(t.Context(), r.ID)
	for _, dir := range made {
		b, _ := os.ReadFile(dir + "/cgroup.procs")
		if strings.TrimSpace(string(b)) != fmt.Sprint(st.Pid) {
			t.Errorf("%s has %q, want %d", dir, b, st.Pid)
		}
	}
	n.logged(r.LogPath, path) // already when it began
	if err := n.client.Delete(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	r.Cgroup = "/cricket-there-is-none"
	if _, err := n.client.Spawn(t.Context(), r, nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a cgroup that is missing: %v", err)
	}
	if left, _ := filepath.Glob(n.dir + "/state/*" + r.ID + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSpawnRefuses(t *testing.T) {
	n := newNode(t, oci.Runtime{})
	first := n.spawn(nil, "sleep", "3600000")
	many := make([]*os.File, maxSpawnFDs+1)
	for i := range many {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		many[i] = f
	}
	for _, c := range []struct {
		name   string
		change func(*SpawnRequest)
		files  []*os.File
		want   error
	}{
		{"an id that is taken", func(r *SpawnRequest) { r.ID = first.ID }, nil, errdefs.ErrAlreadyExists},
		{"an id that is a path", func(r *SpawnRequest) { r.ID = "a/b" }, nil, errdefs.ErrInvalidArgument},
		{"a name for a program", func(r *SpawnRequest) { r.Args[0] = "payload" }, nil, errdefs.ErrInvalidArgument},
		{"no program there", func(r *SpawnRequest) { r.Args[0] = "/there/is/none" }, many[:3], errdefs.ErrFailedPrecondition},
		{"too many descriptors", func(*SpawnRequest) {}, many, errdefs.ErrInvalidArgument},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := SpawnRequest{ID: "mp-refused", Args: []string{programs.payload, "sleep", "1000"}}
			c.change(&r)
			if _, err := n.client.Spawn(t.Context(), r, c.files); !errors.Is(err, c.want) {
				t.Errorf("spawn = %v, want %v", err, c.want)
			}
		})
	}
	if _, err := n.client.Exec(t.Context(), first.ID, ExecRequest{Process: payload("exit", "0")}, runtime.Streams{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("exec in a process: %v", err)
	}
	if got := descriptors(t, n.process.Process.Pid); got > 20 {
		t.Errorf("%d descriptors are open after all", got)
	}
}

func TestBoundedLogKeepsBeginningAndEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	b := openBounded(path, 1000)
	for i := range 500 {
		b.write(fmt.Appendf(nil, "line %03d\n", i))
		if i == 250 { // a new monitor
			b.close()
			b = openBounded(path, 1000)
		}
	}
	b.close()
	got, err := os.ReadFile(path)
	if err != nil || len(got) > 1000 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "line 000\n") || !strings.HasSuffix(text, "line 499\n") || strings.Count(text, boundedCut) != 1 {
		t.Errorf("log = %q", text)
	}
}
