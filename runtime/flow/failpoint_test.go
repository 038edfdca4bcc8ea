//go:build failpoint

package flow

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFailpointStrikesOnceAndUndoes(t *testing.T) {
	for _, at := range []Moment{Before, After} {
		file := filepath.Join(t.TempDir(), "failpoints")
		t.Setenv(FailpointFile, file)
		if err := os.WriteFile(file, []byte("make/two/"+string(at)+"=error\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var s script
		steps := []Step{s.step("one", nil, nil), s.step("two", nil, nil)}
		if err := Run(t.Context(), "make", steps...); err == nil {
			t.Fatalf("%s: the failpoint did not strike", at)
		}
		want := []string{"do one", "undo one"}
		if at == After {
			want = []string{"do one", "do two", "undo two", "undo one"}
		}
		if !reflect.DeepEqual(s.log, want) {
			t.Errorf("%s: log = %v, want %v", at, s.log, want)
		}
		if err := Run(t.Context(), "make", steps...); err != nil {
			t.Errorf("%s: second run: %v", at, err)
		}
		seen, _ := os.ReadFile(file + ".seen")
		if !strings.Contains(string(seen), "make/one/before\nmake/one/after\nmake/two/before\n") {
			t.Errorf("%s: passed steps not noted: %q", at, seen)
		}
	}
}

func TestFailpointHolds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "failpoints")
	t.Setenv(FailpointFile, file)
	if err := os.WriteFile(file, []byte("make/one/before=hold\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s script
	done := make(chan error, 1)
	go func() { done <- Run(t.Context(), "make", s.step("one", nil, nil)) }()
	select {
	case err := <-done:
		t.Fatalf("the step was not held: %v, log = %v", err, s.log)
	case <-time.After(100 * time.Millisecond):
	}
	if err := os.Remove(file + ".held"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || len(s.log) != 1 {
		t.Errorf("error = %v, log = %v", err, s.log)
	}
}
