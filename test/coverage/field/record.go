package field

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Use is what a test did with the fields of the CRI.
type Use struct {
	// Outcome is "pass", "fail" or "skip"; empty for a test that has not ended.
	Outcome string `json:"outcome"`
	// Honoured are fields of requests that succeeded, Refused those of requests that failed
	// with an error that names the field. For a request that the whole RPC refuses
	// (Unimplemented) it holds the request's name.
	Honoured []string `json:"honoured,omitempty"`
	Refused  []string `json:"refused,omitempty"`
	// Answered are fields of answers.
	Answered []string `json:"answered,omitempty"`
}

// Recording is what a suite did, by the names of tests.
type Recording map[string]Use

// Read reads what Recorder.Close wrote.
func Read(name string) (Recording, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read recording: %w", err)
	}
	var r Recording
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read recording %s: %w", name, err)
	}
	return r, nil
}

// Recorder collects what tests do. A nil one records nothing. Its methods may be called at
// the same time.
type Recorder struct {
	file string
	mu   sync.Mutex
	uses map[string]*use
}

type use struct {
	outcome                     string
	honoured, refused, answered map[string]bool
}

// NewRecorder returns one whose Close writes to file; nil for no name.
func NewRecorder(file string) *Recorder {
	if file == "" {
		return nil
	}
	return &Recorder{file: file, uses: map[string]*use{}}
}

// Close writes what was recorded.
func (r *Recorder) Close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Recording{}
	sorted := func(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
	for test, u := range r.uses {
		out[test] = Use{Outcome: u.outcome, Honoured: sorted(u.honoured), Refused: sorted(u.refused), Answered: sorted(u.answered)}
	}
	data, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(r.file), 0o755), os.WriteFile(r.file, data, 0o644))
}

// Test notes how a test ends. It must be called before cleanups that may fail the test are
// registered.
func (r *Recorder) Test(t *testing.T) {
	t.Helper()
	if r == nil {
		return
	}
	r.of(t.Name(), func(*use) {})
	t.Cleanup(func() {
		r.of(t.Name(), func(u *use) {
			switch {
			case t.Failed():
				u.outcome = "fail"
			case t.Skipped():
				u.outcome = "skip"
			case u.outcome == "":
				u.outcome = "pass"
			}
		})
	})
}

func (r *Recorder) of(test string, f func(*use)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.uses[test]
	if u == nil {
		u = &use{honoured: map[string]bool{}, refused: map[string]bool{}, answered: map[string]bool{}}
		r.uses[test] = u
	}
	f(u)
}

// Conn is a connection whose calls are recorded as those of a test.
func (r *Recorder) Conn(conn grpc.ClientConnInterface, test string) grpc.ClientConnInterface {
	if r == nil {
		return conn
	}
	return recorded{conn, r, test}
}

type recorded struct {
	grpc.ClientConnInterface
	r    *Recorder
	test string
}

// Invoke is a call with one answer.
func (c recorded) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	c.r.request(c.test, args, err)
	if err == nil {
		c.r.answer(c.test, reply)
	}
	return err
}

// NewStream is a call with many answers.
func (c recorded) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &recordedStream{ClientStream: s, c: c}, nil
}

type recordedStream struct {
	grpc.ClientStream
	c recorded
}

func (s *recordedStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	s.c.r.request(s.c.test, m, err)
	return err
}

func (s *recordedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.c.r.answer(s.c.test, m)
	}
	return err
}

func (r *Recorder) request(test string, request any, err error) {
	m, ok := request.(proto.Message)
	if !ok {
		return
	}
	fields := Sent(m.ProtoReflect())
	name := string(m.ProtoReflect().Descriptor().Name())
	r.of(test, func(u *use) {
		if err == nil {
			maps.Copy(u.honoured, fields)
			return
		}
		if status.Code(err) == codes.Unimplemented {
			u.refused[name] = true
		}
		for f := range fields {
			if names(err.Error(), strings.TrimPrefix(f, name+".")) {
				u.refused[f] = true
			}
		}
	})
}

// element is an index or a key in the name of a field that an error shows.
var element = regexp.MustCompile(`\[[^]]*\]`)

// names tells whether an error names a field by its path within the request; "config" may be
// left out of it.
func names(message, path string) bool {
	path = strings.TrimPrefix(path, "config.")
	whole := regexp.MustCompile(`(^|[^\w.]|[^\w.]config\.|^config\.)` + regexp.QuoteMeta(path) + `($|[^\w.]|\.\W|\.$)`)
	return whole.MatchString(element.ReplaceAllString(message, ""))
}

func (r *Recorder) answer(test string, reply any) {
	if m, ok := reply.(proto.Message); ok {
		fields := Answered(m.ProtoReflect())
		r.of(test, func(u *use) { maps.Copy(u.answered, fields) })
	}
}
