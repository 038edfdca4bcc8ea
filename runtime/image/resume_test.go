package image

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// TestBrokenBlobIsResumed breaks the connection in the middle of a layer, of servers
// that know ranges, and of those that only say so.
func TestBrokenBlobIsResumed(t *testing.T) {
	l := gzipped(noise(1 << 20))
	const at = 250_000
	if len(l.blob) < 2*at {
		t.Fatalf("the blob has %d bytes only", len(l.blob))
	}
	part := func(w http.ResponseWriter, header string, raw []byte) {
		w.Header().Set("Content-Range", header)
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(raw)
	}
	all := len(l.blob)
	for name, c := range map[string]struct {
		resumed func(w http.ResponseWriter, from int) // the answer to a request with a range
		want    []string                              // ranges that are asked for
		most    int                                   // bytes that may be sent in whole
	}{
		"range": {func(w http.ResponseWriter, from int) {
			part(w, fmt.Sprintf("bytes %d-%d/%d", from, all-1, all), l.blob[from:])
		}, []string{"", "bytes=250000-"}, all},
		"range is ignored": {func(w http.ResponseWriter, _ int) { w.Write(l.blob) }, []string{"", "bytes=250000-"}, all + at},
		"another range": {func(w http.ResponseWriter, from int) {
			part(w, fmt.Sprintf("bytes %d-%d/%d", from-7, all-1, all), l.blob[from-7:])
		}, []string{"", "bytes=250000-", ""}, 2*all + at},
		"no range": {func(w http.ResponseWriter, from int) {
			part(w, "", l.blob[from:])
		}, []string{"", "bytes=250000-", ""}, 2*all + at},
		"lie about the range": {func(w http.ResponseWriter, from int) { // right header, wrong bytes
			part(w, fmt.Sprintf("bytes %d-%d/%d", from, all-1, all), append([]byte("?"), l.blob[from+1:]...))
		}, []string{"", "bytes=250000-", ""}, 2*all + at},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, k := newHub(t), newKit(t, nil)
			h.push("app", "v1", nil, l)
			var mu sync.Mutex
			var ranges []string
			sent := 0
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				if !isBlob(r, l) {
					return false
				}
				mu.Lock()
				ranges = append(ranges, r.Header.Get("Range"))
				first := len(ranges) == 1
				mu.Unlock()
				counted := &countingWriter{ResponseWriter: w}
				defer func() { mu.Lock(); sent += counted.n; mu.Unlock() }()
				switch from := rangeOf(r); {
				case first:
					breakAt(l, at)(counted, r)
				case from > 0:
					c.resumed(counted, from)
				default:
					counted.Write(l.blob)
				}
				return true
			})
			k.mustPull(t, h.host+"/app:v1")
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(ranges) != fmt.Sprint(c.want) {
				t.Errorf("ranges %q were asked for, want %q", ranges, c.want)
			}
			if sent > c.most {
				t.Errorf("%d bytes were sent for %d", sent, all)
			}
			if k.Status().Resumed == 0 {
				t.Error("nothing was counted as resumed")
			}
		})
	}
}

type countingWriter struct {
	http.ResponseWriter
	n int
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += n
	return n, err
}

func (c *countingWriter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

// A line that breaks after every two megabytes brings in a layer of any length.
func TestBreaksThatGetOnDoNotCount(t *testing.T) {
	h, k := newHub(t), newKit(t, nil)
	l := plain(noise((attempts+2)*2<<20 - 4096))
	h.push("app", "v1", nil, l)
	var asked atomic.Int64
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlob(r, l) {
			asked.Add(1)
			breakAt(l, 2<<20)(w, r)
		}
		return isBlob(r, l)
	})
	k.mustPull(t, h.host+"/app:v1")
	if n := asked.Load(); n <= attempts {
		t.Errorf("the connection broke %d times only, so nothing was shown", n)
	}
}

// TestSlowPullIsNotCancelled pulls a layer that takes many times the deadline, over a line
// of a KiB per second or so.
func TestSlowPullIsNotCancelled(t *testing.T) {
	const stall = time.Second
	h, k := newHub(t), newKit(t, func(o *Options) { o.Stall = stall })
	l := gzipped(noise(8 << 10))
	h.push("app", "v1", nil, l)
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBlob(r, l) {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(l.blob)))
		for i := range l.blob {
			w.Write(l.blob[i : i+1])
			if i%(len(l.blob)/30) == 0 {
				w.(http.Flusher).Flush()
				time.Sleep(stall / 10)
			}
		}
		return true
	})
	begin := time.Now()
	k.mustPull(t, h.host+"/app:v1")
	if took := time.Since(begin); took < 2*stall {
		t.Errorf("the pull took %s, which shows nothing", took)
	}
}

// TestRedirects serves layers from another host: neither the credential nor the headers
// of hosts.toml go there, ranges do.
func TestRedirects(t *testing.T) {
	l := gzipped(noise(1 << 20))
	h := newHub(t)
	h.push("app", "v1", nil, l)
	var leaked atomic.Value
	var asked atomic.Int64
	store := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", "Cookie", "X-Api-Key"} {
			if v := r.Header.Get(name); v != "" {
				leaked.Store(name + ": " + v)
			}
		}
		if asked.Add(1) == 1 {
			breakAt(l, 1000)(w, r)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(l.blob)))
	}))
	store.Config.ErrorLog = quiet()
	defer store.Close()
	var keyed atomic.Bool
	h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
		keyed.Store(r.Header.Get("X-Api-Key") == "secret" && r.Header.Get("Cookie") != "")
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if isBlob(r, l) {
			// The same address: Go tells hosts apart by their names alone.
			http.Redirect(w, r, store.URL+"/bucket", http.StatusTemporaryRedirect)
		}
		return isBlob(r, l)
	})
	k := newKit(t, func(o *Options) {
		o.HostsDir = hosts(t, "registry.example", fmt.Sprintf(
			"server = %q\nskip_verify = true\n[header]\nX-Api-Key = \"secret\"\nCookie = \"session=1\"\n", h.URL))
	})
	if _, err := k.Pull(t.Context(), "registry.example/app:v1", &Auth{Username: "me", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	if v := leaked.Load(); v != nil {
		t.Errorf("the other host saw %s", v)
	}
	if !keyed.Load() {
		t.Error("the registry itself did not see its headers")
	}
	if asked.Load() != 2 {
		t.Errorf("the other host was asked %d times, want one more after the break", asked.Load())
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "7": 7 * time.Second, " 120 ": 2 * time.Minute, "99999999999": -1, "-1": -1, "1.5": -1, "soon": -1, "": -1,
		"Sun, 29 Nov 2026 11:00:09 GMT":    9 * time.Second, // by the server's clock, an hour late
		"Sunday, 29-Nov-26 11:00:10 GMT":   10 * time.Second,
		"Sun, 29 Nov 2026 10:00:00 GMT":    0,
		"Sun, 29 Nov 2026 25:00:00 GMT":    -1,
		"Thu, 01 Jan 1970 00:00:00 GMT":    0,
		"Fri, 31 Dec 9999 23:59:59 GMT":    1<<63 - 1,
		"Sun, 29 Nov 2026 11:00:09 +02:00": -1,
	} {
		at, ok := retryAfter(http.Header{"Retry-After": {value}, "Date": {"Sun, 29 Nov 2026 11:00:00 GMT"}}, now)
		if ok != (want >= 0) || ok && at.Sub(now) != want {
			t.Errorf("%q: in %s, %v, want %s", value, at.Sub(now), ok, want)
		}
	}
	if at, ok := retryAfter(http.Header{"Retry-After": {"Sun, 29 Nov 2026 12:00:05 GMT"}}, now); !ok || at.Sub(now) != 5*time.Second {
		t.Errorf("without a date: in %s, %v", at.Sub(now), ok)
	}
}

// TestRetryAfterIsHonoured has a registry that limits: it is not asked before the time
// it names, and a time that is too long ends the pull at once.
func TestRetryAfterIsHonoured(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	l := gzipped("one")
	for name, c := range map[string]struct {
		code  int
		after func() string
		of    string        // requests that are limited
		least time.Duration // that passes; 0: the pull fails
	}{
		"429, seconds":       {429, func() string { return "2" }, "/manifests/", 2 * time.Second},
		"429, a date":        {429, func() string { return date(3 * time.Second) }, "/manifests/", 2 * time.Second},
		"429 of a layer":     {429, func() string { return "2" }, "/blobs/", 2 * time.Second},
		"503, seconds":       {503, func() string { return "2" }, "/blobs/", 2 * time.Second},
		"429, an hour":       {429, func() string { return "3600" }, "/manifests/", 0},
		"503, a far date":    {503, func() string { return date(time.Hour) }, "/manifests/", 0},
		"429 of a layer, 1h": {429, func() string { return "3600" }, "/blobs/", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, k := newHub(t), newKit(t, nil)
			h.push("app", "v1", nil, l)
			var mu sync.Mutex
			var limited time.Time
			early := 0
			h.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if !strings.Contains(r.URL.Path, c.of) {
					return false
				}
				if limited.IsZero() {
					limited = time.Now()
					w.Header().Set("Retry-After", c.after())
					w.WriteHeader(c.code)
					return true
				}
				if time.Since(limited) < c.least || c.least == 0 {
					early++
				}
				return false
			})
			begin := time.Now()
			_, err := k.Pull(t.Context(), h.host+"/app:v1", nil)
			if took := time.Since(begin); c.least == 0 && (!errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "to be asked again at") || took > 30*time.Second) {
				t.Errorf("error = %v after %s, want the time that the registry names", err, took)
			}
			if c.least > 0 && err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if early > 0 || limited.IsZero() {
				t.Errorf("%d requests came before their time (limited: %v)", early, !limited.IsZero())
			}
		})
	}
}
