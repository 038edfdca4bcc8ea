package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// patience is how often an endpoint may break off one blob if another can be asked.
	patience = 2
	// ground is what a stream has to gain, in bytes, for a break not to count: a long
	// layer over a bad line breaks often and gets on all the same.
	ground = 1 << 20
)

// stream reads a blob. Where it breaks, it is taken up again at that byte, a bounded
// number of times, from another endpoint if there is one.
type stream struct {
	ctx    context.Context
	reg    *registry
	desc   ocispec.Descriptor
	arrive *atomic.Int64 // bytes so far, for those who watch the pull

	rc     io.ReadCloser
	from   string // the endpoint of rc
	offset int64

	since      int64          // where the last break was
	breaks     map[string]int // by endpoint
	unanswered int            // how often no endpoint had it
	without    map[string]bool
	sources    []string // every endpoint that bytes came from
	resumed    bool
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		n, err := s.read(p)
		s.offset += int64(n)
		s.arrive.Store(s.offset)
		if errors.Is(err, io.EOF) && s.offset < s.desc.Size {
			err = io.ErrUnexpectedEOF
		}
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if err := s.mend(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (s *stream) read(p []byte) (n int, err error) {
	if s.rc == nil {
		s.rc, s.from, err = s.reg.fetch(s.ctx, s.desc, s.offset, s.without)
		if err != nil {
			s.rc, s.from = nil, ""
			return 0, err
		}
		if !slices.Contains(s.sources, s.from) {
			s.sources = append(s.sources, s.from)
		}
		s.resumed = s.resumed || s.offset > 0
	}
	n, err = s.rc.Read(p)
	if errdefs.IsFailedPrecondition(err) { // the library found it too long
		err = &untrueError{s.desc.Digest, err.Error()}
	}
	return n, err
}

// mend prepares for another attempt after an error, or answers why there is none.
func (s *stream) mend(err error) error {
	from := s.from
	s.close()
	if s.ctx.Err() != nil || untrue(err) {
		return err
	}
	final := !transient(err)
	if from == "" {
		s.unanswered++
		if final || s.unanswered >= attempts {
			return fmt.Errorf("read blob at byte %d, attempt %d: %w", s.offset, s.unanswered, err)
		}
		return s.reg.wait(s.ctx, s.unanswered, err)
	}
	if s.offset-s.since >= ground {
		s.breaks, s.unanswered = map[string]int{}, 0
	}
	s.since = s.offset
	s.breaks[from]++
	s.reg.counts.resumed.Add(1)
	s.reg.log.Debug("layer is taken up again", "image", s.reg.full, "digest", s.desc.Digest, "offset", s.offset, "endpoint", from, "error", redacted{err})
	if (final || s.breaks[from] >= patience) && s.turn(from) {
		return nil
	}
	if final || s.breaks[from] >= attempts {
		return fmt.Errorf("read blob at byte %d, attempt %d: %w", s.offset, s.breaks[from], err)
	}
	return s.reg.wait(s.ctx, s.breaks[from], err)
}

// turn gives an endpoint up for this blob, if another is left.
func (s *stream) turn(from string) bool {
	s.without[from] = true
	left, err := s.reg.usable(docker.HostCapabilityPull, s.without)
	if err != nil || len(left) == 0 {
		delete(s.without, from)
		return false
	}
	s.reg.counts.failovers.Add(1)
	return true
}

func (s *stream) close() {
	if s.rc != nil {
		s.rc.Close()
	}
	s.rc, s.from = nil, ""
}
