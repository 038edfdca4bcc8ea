package store

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func open(t *testing.T, dir, boot string) *Store {
	t.Helper()
	s, err := Open(Options{
		Dir: filepath.Join(dir, "state"), Journal: filepath.Join(dir, "journal"), Boot: boot,
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func shut(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func box(id, name string) *Sandbox {
	m := &v1.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "u"}
	return &Sandbox{ID: id, Boot: "1", Config: &v1.PodSandboxConfig{Metadata: m}, CreatedAt: time.Unix(1, 0).UTC(), ReadyAt: time.Unix(2, 0).UTC()}
}

func TestRecordsSurviveTheDaemon(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "1")
	if err := s.Sandboxes.Add(box("aa", "one")); err != nil {
		t.Fatal(err)
	}
	want, err := s.Sandboxes.Update("aa", func(r *Sandbox) { r.IPs = []string{"10.0.0.1"} })
	if err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	s = open(t, dir, "1")
	defer shut(t, s)
	got, err := s.Sandboxes.Get("aa")
	if err != nil || !proto.Equal(got.Config, want.Config) || fmt.Sprint(got.IPs) != "[10.0.0.1]" || !got.ReadyAt.Equal(want.ReadyAt) {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := s.Sandboxes.Add(box("bb", "one")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("name of a restored record: %v", err)
	}
}

func TestFind(t *testing.T) {
	s := open(t, t.TempDir(), "1")
	defer shut(t, s)
	for _, id := range []string{"ab12", "ab34", "ab"} {
		if err := s.Sandboxes.Add(box(id, id)); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string]string{"ab": "ab", "ab1": "ab12", "ab34": "ab34"} {
		if r, err := s.Sandboxes.Find(prefix); err != nil || r.ID != want {
			t.Errorf("%s: %v, %v", prefix, r, err)
		}
	}
	for prefix, is := range map[string]func(error) bool{"a": errdefs.IsInvalidArgument, "": errdefs.IsInvalidArgument, "c": errdefs.IsNotFound} {
		if _, err := s.Sandboxes.Find(prefix); !is(err) {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

// TestFindPending: what is being made is not there for those who ask for it by its id, or
// by a beginning that is another's too.
func TestFindPending(t *testing.T) {
	s := open(t, t.TempDir(), "1")
	defer shut(t, s)
	intent := box("ab12", "one")
	intent.ReadyAt = time.Time{}
	for _, r := range []*Sandbox{intent, box("ab34", "two")} {
		if err := s.Sandboxes.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := s.Sandboxes.Find("ab12"); !errdefs.IsNotFound(err) {
		t.Errorf("an intent: %v, %v", r, err)
	}
	if r, err := s.Sandboxes.Find("ab"); err != nil || r.ID != "ab34" {
		t.Errorf("its beginning: %v, %v", r, err)
	}
	if _, err := s.Sandboxes.Get("ab12"); err != nil {
		t.Errorf("who makes it: %v", err)
	}
	if _, err := s.Sandboxes.Update("ab12", func(r *Sandbox) { r.ReadyAt = time.Unix(3, 0) }); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Sandboxes.Find("ab12"); err != nil || r.ID != "ab12" {
		t.Errorf("once it is ready: %v, %v", r, err)
	}
}

func TestDeletedNameIsFree(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "1")
	for range 2 {
		if err := s.Sandboxes.Add(box("aa", "one")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Sandboxes.Delete("aa"); err != nil {
				t.Fatal(err)
			}
		}
	}
	shut(t, s)
	if s = open(t, dir, "2"); len(s.Sandboxes.List()) != 0 {
		t.Error("it came back")
	}
	shut(t, s)
}

// TestJournal: what a reboot leaves is the journal alone, maybe with damage.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "1")
	intent := box("cc", "three")
	intent.ReadyAt = time.Time{}
	for _, r := range []*Sandbox{box("aa", "one"), box("bb", "two"), intent} {
		if err := s.Sandboxes.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, s)
	path := filepath.Join(dir, "journal", "records")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for name, damage := range map[string]string{
		"whole": string(text), "torn": string(text[:len(text)-5]), "rubbish between": lines[0] + "rubbish\n" + lines[1],
		"flipped": strings.Replace(lines[0], "sandbox", "sandbax", 1) + lines[1],
	} {
		fresh := t.TempDir()
		if err := os.Mkdir(filepath.Join(fresh, "journal"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(fresh, "journal", "records"), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		want := 2
		if name == "torn" || name == "flipped" {
			want = 1
		}
		for range 2 { // the second time from the files
			s := open(t, fresh, "2")
			if got := len(s.Sandboxes.List()); got != want {
				t.Errorf("%s: %d records, want %d", name, got, want)
			}
			shut(t, s)
		}
	}
}

// TestFilesOutweighJournal: the journal lags, so within one boot the files are right.
func TestFilesOutweighJournal(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "1")
	if err := s.Sandboxes.Add(box("aa", "one")); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if err := os.Remove(filepath.Join(dir, "state", "sandbox", "aa.json")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, "1")
	defer shut(t, s)
	if n := len(s.Sandboxes.List()); n != 0 {
		t.Errorf("%d removed records came back", n)
	}
}

// TestJournalCatchesUp: what a killed daemon did not get into the journal is there after
// the next one, also if nothing changes any more.
func TestJournalCatchesUp(t *testing.T) {
	killed, dir := t.TempDir(), t.TempDir()
	s := open(t, killed, "1")
	intent := box("cc", "three")
	intent.ReadyAt = time.Time{}
	for _, r := range []*Sandbox{box("aa", "one"), box("bb", "two"), intent} {
		if err := s.Sandboxes.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "state"), os.DirFS(filepath.Join(killed, "state"))); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if err := os.WriteFile(filepath.Join(dir, "state", "sandbox", "bb.json"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	shut(t, open(t, dir, "1"))
	s = reboot(t, dir)
	defer shut(t, s)
	if _, err := s.Sandboxes.Get("aa"); err != nil || len(s.Sandboxes.List()) != 1 {
		t.Errorf("got %v, %v; want only the record that is whole and no intent", s.Sandboxes.List(), err)
	}
}

// reboot opens a store of whose directories the journal alone is left.
func reboot(t *testing.T, dir string) *Store {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	return open(t, dir, "2")
}

// TestJournalForgets: a removal that a killed daemon did not get into the journal does not
// come back with the name of a record that is alive.
func TestJournalForgets(t *testing.T) {
	older, dir := t.TempDir(), t.TempDir()
	var journal []byte
	for _, c := range []struct{ dir, id string }{{older, "aa"}, {dir, "bb"}} {
		s := open(t, c.dir, "1")
		if err := s.Sandboxes.Add(box(c.id, "one")); err != nil {
			t.Fatal(err)
		}
		shut(t, s)
		text, err := os.ReadFile(filepath.Join(c.dir, "journal", "records"))
		if err != nil {
			t.Fatal(err)
		}
		journal = append(journal, text...)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal", "records"), journal, 0o600); err != nil {
		t.Fatal(err)
	}
	shut(t, open(t, dir, "1"))
	s := reboot(t, dir)
	defer shut(t, s)
	if r, err := s.Sandboxes.Get("bb"); err != nil || r.Broken != "" || len(s.Sandboxes.List()) != 1 {
		t.Errorf("got %+v, %v of %d records", r, err, len(s.Sandboxes.List()))
	}
}

// TestJournalWithoutState: a change that the state directory has no room for outlives a
// reboot; a record that could not be added does not.
func TestJournalWithoutState(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, "1")
	if err := s.Sandboxes.Add(box("aa", "one")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "state", "sandbox")); err != nil {
		t.Fatal(err)
	}
	stopped := time.Unix(3, 0).UTC()
	if _, err := s.Sandboxes.Update("aa", func(r *Sandbox) { r.StoppedAt = stopped }); !errdefs.IsResourceExhausted(err) {
		t.Errorf("update: %v", err)
	}
	if err := s.Sandboxes.Add(box("bb", "two")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("add: %v", err)
	}
	shut(t, s)
	s = reboot(t, dir)
	defer shut(t, s)
	if r, err := s.Sandboxes.Get("aa"); err != nil || !r.StoppedAt.Equal(stopped) || len(s.Sandboxes.List()) != 1 {
		t.Errorf("got %+v, %v of %d records", r, err, len(s.Sandboxes.List()))
	}
}

func TestJournalIsWrittenAnew(t *testing.T) {
	j, _, err := openJournal(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	close(j.quit) // the test does the goroutine's work
	<-j.done
	for n := range 3000 {
		text := fmt.Sprintf("{\"n\":%d,\"x\":%q}", n, strings.Repeat("1", 1000))
		if err := j.write(map[string][]byte{"sandbox/aa": []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(j.path)
	if err != nil || len(text) > slack+1<<16 {
		t.Errorf("journal: %d bytes, %v", len(text), err)
	}
	last, skipped := readJournal(text)
	if skipped != 0 || !strings.HasPrefix(string(last["sandbox/aa"]), "{\"n\":2999,") {
		t.Errorf("last: %.20s, %d skipped", last["sandbox/aa"], skipped)
	}
	if err := j.file.Close(); err != nil {
		t.Error(err)
	}
}

func TestBroken(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "torn": `{"version":1,"record":{"id":"a`, "version": `{"version":99,"record":{"id":"aa"}}`,
		"other id": `{"version":1,"record":{"id":"bb"}}`, "config": `{"version":1,"record":{"id":"aa"},"config":"gA=="}`,
	} {
		dir := t.TempDir()
		shut(t, open(t, dir, "1"))
		file := filepath.Join(dir, "state", "container", "aa.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, "1")
		c, err := s.Containers.Get("aa")
		if err != nil || c.State() != v1.ContainerState_CONTAINER_UNKNOWN || c.Pending() || c.Config.GetMetadata() == nil {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
		if err := s.Containers.Delete("aa"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
		shut(t, s)
	}
}

func TestStates(t *testing.T) {
	at := time.Unix(1, 0)
	for want, c := range map[v1.ContainerState]*Container{
		v1.ContainerState_CONTAINER_CREATED: {MadeAt: at},
		v1.ContainerState_CONTAINER_RUNNING: {MadeAt: at, StartedAt: at},
		v1.ContainerState_CONTAINER_EXITED:  {MadeAt: at, FinishedAt: at},
		v1.ContainerState_CONTAINER_UNKNOWN: {MadeAt: at, FinishedAt: at, Broken: "x"},
	} {
		if got := c.State(); got != want {
			t.Errorf("%+v: %v, want %v", c, got, want)
		}
	}
}
