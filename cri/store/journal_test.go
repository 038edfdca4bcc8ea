package store

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestFailedSyncIsWrittenAgain: after a sync that failed, nothing of the batch may be
// taken for written, removals included.
func TestFailedSyncIsWrittenAgain(t *testing.T) {
	j := &journal{
		path: filepath.Join(t.TempDir(), "records"), log: slog.New(slog.DiscardHandler),
		pending: map[string][]byte{"kind/a": nil, "kind/b": []byte(`{}`)}, last: map[string][]byte{"kind/a": []byte(`{}`)},
	}
	if err := j.rewrite(); err != nil {
		t.Fatal(err)
	}
	disk := j.file
	defer disk.Close()
	r, w, err := os.Pipe() // can be written to, cannot be synced
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	j.file = w
	if j.commit() {
		t.Fatal("what is not synced is called written")
	}
	j.file = disk
	if !j.commit() {
		t.Fatal("not written")
	}
	defer j.file.Close()
	text, err := os.ReadFile(j.path)
	if err != nil {
		t.Fatal(err)
	}
	if last, _ := readJournal(text); last["kind/a"] != nil || last["kind/b"] == nil {
		t.Errorf("journal: %s", text)
	}
}
