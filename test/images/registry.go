package images

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Request is one request that the registry answered.
type Request struct {
	Method, Name, Kind, Reference string // Kind is "manifests" or "blobs"
	Authorization                 string
	Status                        int
}

// Registry serves sets of images read-only over the distribution API. Clients that use
// it as a mirror say by the parameter ns which registry they mean; a request without ns
// matches any registry. It is safe for concurrent use.
type Registry struct {
	// Before, if not nil, sees every request first and answers it itself when it
	// returns true. Set it before serving.
	Before func(http.ResponseWriter, *http.Request) bool

	mu       sync.Mutex
	sets     []*Set
	requests []Request
}

// NewRegistry serves the given sets.
func NewRegistry(sets ...*Set) *Registry { return &Registry{sets: sets} }

// Requests returns what was asked for so far, in order.
func (r *Registry) Requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Add writes an image below dir and serves it from then on as name, which has a tag.
func (r *Registry) Add(dir, name string, img v1.Image) error {
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		if _, err := layout.Write(dir, emptyIndex()); err != nil {
			return fmt.Errorf("make image layout: %w", err)
		}
	}
	if err := appendImage(dir, name, img); err != nil {
		return fmt.Errorf("add image %s: %w", name, err)
	}
	set, err := Open(dir)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = append(slices.DeleteFunc(r.sets, func(s *Set) bool { return s.path == set.path }), set)
	return nil
}

// AddSet serves a further set from then on.
func (r *Registry) AddSet(s *Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets = append(r.sets, s)
}

// Serve listens on address (HOST:PORT) until the returned server is closed.
func (r *Registry) Serve(address string) (*http.Server, string, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, "", fmt.Errorf("listen for the registry: %w", err)
	}
	s := &http.Server{Handler: r}
	go s.Serve(l) // it returns when the caller closes the server
	return s, l.Addr().String(), nil
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if r.Before != nil && r.Before(w, req) {
		return
	}
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if path == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	parts := strings.Split(path, "/")
	entry := Request{Method: req.Method, Authorization: req.Header.Get("Authorization"), Status: http.StatusNotFound}
	var found *content
	if n := len(parts); n >= 3 {
		entry.Name, entry.Kind, entry.Reference = strings.Join(parts[:n-2], "/"), parts[n-2], parts[n-1]
		if found = r.find(req.URL.Query().Get("ns"), entry); found != nil {
			defer found.file.Close()
			entry.Status = http.StatusOK
		}
	}
	// Before the answer: who has it may ask for the log.
	r.mu.Lock()
	r.requests = append(r.requests, entry)
	r.mu.Unlock()
	if found == nil {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no %s here"}]}`, path)
		return
	}
	w.Header().Set("Docker-Content-Digest", found.digest.String())
	w.Header().Set("Content-Type", found.mediaType)
	http.ServeContent(w, req, "", found.time, found.file)
}

// content is a file of a layout that answers a request.
type content struct {
	file      *os.File
	time      time.Time
	digest    v1.Hash
	mediaType string
}

// find returns what answers a request, nil if nothing does.
func (r *Registry) find(host string, e Request) *content {
	r.mu.Lock()
	sets := slices.Clone(r.sets)
	r.mu.Unlock()
	for _, s := range sets {
		if !s.knows(host, e.Name) {
			continue
		}
		digest, err := v1.NewHash(e.Reference)
		if err != nil {
			d, ok := s.find(host, e.Name, e.Reference)
			if !ok || e.Kind != "manifests" {
				continue
			}
			digest = d.Digest
		}
		if c, err := s.open(e.Kind, digest); err == nil {
			return c
		}
	}
	return nil
}

// knows tells whether any tag of the repository is in the set.
func (s *Set) knows(host, name string) bool {
	for ref := range s.refs {
		if matches(ref[:strings.LastIndexByte(ref, ':')], host, name) {
			return true
		}
	}
	return false
}

func (s *Set) find(host, name, tag string) (v1.Descriptor, bool) {
	for ref, d := range s.refs {
		repo, t := ref[:strings.LastIndexByte(ref, ':')], ref[strings.LastIndexByte(ref, ':')+1:]
		if t == tag && matches(repo, host, name) {
			return d, true
		}
	}
	return v1.Descriptor{}, false
}

func matches(repo, host, name string) bool {
	h, n, _ := strings.Cut(repo, "/")
	return n == name && (host == "" || host == h)
}

// open opens a file of the layout. Layouts keep manifests among the blobs.
func (s *Set) open(kind string, digest v1.Hash) (c *content, err error) {
	f, err := os.Open(filepath.Join(string(s.path), "blobs", digest.Algorithm, digest.Hex))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c = &content{file: f, time: info.ModTime(), digest: digest, mediaType: "application/octet-stream"}
	if kind != "blobs" {
		var m struct {
			MediaType string `json:"mediaType"`
		}
		if err := json.NewDecoder(f).Decode(&m); err != nil {
			return nil, err
		}
		c.mediaType = m.MediaType
	}
	_, err = f.Seek(0, io.SeekStart)
	return c, err
}
