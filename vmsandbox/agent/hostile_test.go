package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// hostile is an answer; what comes behind the end of the JSON is files' content.
type hostile struct {
	call func(*Client) error
	body string
}

func (h hostile) message() []byte {
	text, content, found := strings.Cut(h.body, "}}")
	if strings.Contains(text, `"mode"`) && found {
		return message(text+"}}", content)
	}
	return message(h.body, "")
}

// TestHostileAnswers are answers that no honest guest gives.
func TestHostileAnswers(t *testing.T) {
	stat := func(c *Client) error { _, err := c.Stat(t.Context()); return err }
	processes := func(c *Client) error { _, err := c.Processes(t.Context()); return err }
	hello := func(c *Client) error { _, err := c.Hello(t.Context()); return err }
	get := func(c *Client) error { _, err := c.Get(t.Context(), "/a"); return err }
	many := func(entry string, n int) string { return strings.TrimSuffix(strings.Repeat(entry+",", n), ",") }
	for name, tc := range map[string]hostile{
		"no JSON":             {stat, `x`},
		"not an object":       {stat, `{"body":[]}`},
		"nothing":             {stat, `{}`},
		"many containers":     {stat, `{"body":{"containers":{` + many(`"a":null`, 4097) + `}}}`},
		"name of container":   {stat, `{"body":{"containers":{"../a":{}}}}`},
		"list of containers":  {stat, `{"body":{"containers":[1]}}`},
		"many interfaces":     {stat, `{"body":{"network":[` + many(`{"Name":"a"}`, 257) + `]}}`},
		"interfaces of null":  {stat, `{"body":{"network":[` + many(`null`, 800000) + `]}}`},
		"interfaces of 0":     {stat, `{"body":{"network":[` + many(`0`, 2000000) + `]}}`},
		"many disks":          {stat, `{"body":{"disks":{` + many(`"a":{}`, 65) + `}}}`},
		"many devices":        {stat, `{"body":{"guest":{"IO":[` + many(`{}`, 257) + `]}}}`},
		"devices of a null":   {stat, `{"body":{"pod":{"IO":[` + many(`null`, 800000) + `]}}}`},
		"many page sizes":     {stat, `{"body":{"containers":{"a":{"Hugetlb":[` + many(`{}`, 17) + `]}}}}`},
		"many processes":      {processes, `{"body":{` + many(`"a":{}`, 4097) + `}}`},
		"negative processes":  {processes, `{"body":{"a":{"Sockets":-1}}}`},
		"negative figure":     {stat, `{"body":{"guest":{"CPUNanos":-1}}}`},
		"device elsewhere":    {hello, `{"body":{"devices":[{"path":"/dev/../etc/x","type":"c"}]}}`},
		"device of no type":   {hello, `{"body":{"devices":[{"path":"/dev/x","type":"-"}]}}`},
		"device numbers":      {hello, `{"body":{"devices":[{"path":"/dev/x","type":"c","major":-1}]}}`},
		"capability":          {hello, `{"body":{"capabilities":["CAP\nX"]}}`},
		"CPUs":                {hello, `{"body":{"cpus":-4}}`},
		"directory":           {get, `{"body":{"mode":16384}}`},
		"long link":           {get, `{"body":{"mode":40960,"size":4096}}` + strings.Repeat("A", 4096)},
		"no content":          {get, `{"body":{"mode":32768,"size":5}}1234`},
		"negative content":    {get, `{"body":{"mode":32768,"size":-5}}1234`},
		"too much content":    {get, `{"body":{"mode":32768,"size":5}}123456`},
		"mode":                {get, `{"body":{"mode":4294934528}}`},
		"content":             {get, `{"body":{"mode":32768,"size":1048577}}` + strings.Repeat("A", 1048577)},
		"unknown kind":        {get, `{"kind":"happy","error":"x"}`},
		"deeply nested":       {stat, `{"body":` + strings.Repeat("[", 1000000) + `}`},
		"nested in container": {stat, `{"body":{"containers":{"a":` + strings.Repeat(`{"a":`, 500000) + `}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			err := tc.call(answering(t, tc.message()))
			goruntime.ReadMemStats(&after)
			if !errdefs.IsInternal(err) {
				t.Errorf("%.300v", err)
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 64<<20 {
				t.Errorf("%d bytes for an answer of %d", spent, len(tc.body))
			}
		})
	}
	for name, raw := range map[string][]byte{
		"too long": {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, "cut off": {0, 0, 0, 9, 0, 0, 0, 5, '{'}, "empty": nil, "half a length": {0, 0},
		"too short": {0, 0, 0, 3, 0, 0, 0, 0}, "more text than all": {0, 0, 0, 9, 0, 0, 0, 6, 1, 2, 3, 4, 5},
	} {
		if err := stat(answering(t, raw)); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTidy has figures be kept in their ranges.
func TestTidy(t *testing.T) {
	c := answering(t, message(`{"body":{"guest":{"At":"0001-01-01T00:00:00Z","CPUPressure":{"Some":{"Avg10":1e300,"Avg60":-5}}},
		"containers":{"a":{"At":"9999-01-01T00:00:00Z"}}}}`, ""))
	s, err := c.Stat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(s.Guest.At); d < 0 || d > time.Minute || time.Since(s.Containers["a"].At) < 0 {
		t.Errorf("times %v, %v", s.Guest.At, s.Containers["a"].At)
	}
	if p := s.Guest.CPUPressure.Some; p.Avg10 != 100 || p.Avg60 != 0 {
		t.Errorf("pressure %+v", p)
	}
}

// TestInvalidRequests must not leave the host, and a guest refuses them as well.
func TestInvalidRequests(t *testing.T) {
	good := Identity{UnixNanos: 1, Entropy: make([]byte, 32), MachineID: strings.Repeat("0", 32)}
	for name, b := range map[string]body{
		"entropy":       Identity{UnixNanos: 1, MachineID: good.MachineID},
		"machine id":    Identity{UnixNanos: 1, Entropy: good.Entropy, MachineID: "x"},
		"host name":     Identity{UnixNanos: 1, Entropy: good.Entropy, MachineID: good.MachineID, Hostname: "a/b"},
		"interface":     Network{Name: "../eth0"},
		"MAC":           Network{Name: "eth0", MAC: "02"},
		"MTU":           Network{Name: "eth0", MTU: 5},
		"route":         Network{Name: "eth0", Routes: []Route{{}}},
		"neighbour":     Network{Name: "eth0", Neighbours: []Neighbour{{}}},
		"parameter":     sysctls{"net/../../x": "1"},
		"mount outside": Mount{Target: "/etc", Type: "tmpfs"},
		"mount type":    Mount{Target: DirVolumes + "/a"},
		"mount options": Mount{Target: DirVolumes + "/a", Type: "tmpfs", Options: []string{"a,b"}},
		"mapped disk":   Mount{Target: DirDisks + "/a", Type: "erofs", Slot: "ro0", Memory: []int{1}},
		"mapped type":   Mount{Target: DirDisks + "/a", Type: "ext4", Memory: []int{1}},
		"mapped bus":    Mount{Target: DirDisks + "/a", Type: "erofs", Memory: []int{-1}},
		"unmount":       place("/proc"),
		"read":          source("etc/passwd"),
		"remove all":    trees{DirVolumes},
		"remove dots":   trees{DirVolumes + "/../../etc"},
		"file outside":  fileList{{Path: "/etc/passwd", Mode: unix.S_IFREG}},
		"file type":     fileList{{Path: DirVolumes + "/a", Mode: unix.S_IFBLK}},
		"directory":     fileList{{Path: DirVolumes + "/a", Mode: unix.S_IFDIR, Content: []byte("x")}},
		"link":          fileList{{Path: DirVolumes + "/a", Mode: unix.S_IFLNK}},
	} {
		if err := b.check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := NewClient(func(context.Context, string) (net.Conn, error) { t.Error("asked"); return nil, nil })
	if err := c.Put(t.Context(), []File{{Path: "/etc/passwd"}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	s := &stand{}
	for body, want := range map[string]string{
		`{"op":"put","body":[{"path":"/etc/passwd","mode":32768}]}`: "invalid_argument",
		`{"op":"put","body":{}}`:                                    "invalid_argument",
		`{"op":"put"}`:                                              "invalid_argument",
		`{"op":"fly"}`:                                              "unimplemented",
		`nonsense`:                                                  "invalid_argument",
	} {
		if a, _ := serveRequest(t.Context(), []byte(body), nil, s); a.Kind != want {
			t.Errorf("%s: %+v", body, a)
		}
	}
	if len(s.calls) > 0 {
		t.Errorf("calls %v", s.calls)
	}
}

// FuzzAnswer has a guest answer anything to the calls that answer something.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"body":{"version":1,"devices":[{"path":"/dev/null","type":"c","major":1,"minor":3}],"capabilities":["CAP_KILL"]}}`,
		`{"body":{"guest":{"At":"2026-11-23T00:00:00Z","CPUNanos":5},"containers":{"a":{}},"network":[{"Name":"eth0"}],"disks":{"rw0":{"Bytes":1}}}}`,
		`{"body":{"mode":33188}}`, `{"kind":"not_found","error":"x"}`,
	} {
		f.Add(message(seed, ""))
	}
	f.Add(message(`{"body":{"mode":33188,"size":3}}`, "abc"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, content, err := readMessage(bytes.NewReader(raw), maxAnswer)
		if err != nil {
			return
		}
		var a answer
		if json.Unmarshal(b, &a) != nil || a.err() != nil {
			return
		}
		if i, err := decodeInfo(a.Body); err == nil && len(i.Devices) > maxDevices {
			t.Error("devices")
		}
		if s, err := decodeStat(a.Body); err == nil && (len(s.Containers) > maxContainers || len(s.Network) > maxInterfaces) {
			t.Error("figures")
		}
		if f, err := decodeFile(a.Body, content, "/a"); err == nil && (f.Path != "/a" || len(f.Content) > maxContent) {
			t.Error("file")
		}
	})
}

// FuzzRequest has a host ask a guest anything.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"op":"put","timeout":1000000,"body":[{"path":"/cricket/volumes/a","mode":33188,"size":3}]}`), []byte("abc"))
	f.Add([]byte(`{"op":"mount","body":{"slot":"ro0","target":"/cricket/disks/ro0","type":"erofs"}}`), []byte{})
	f.Add([]byte(`{"op":"connect","body":{"name":"eth0","addresses":["10.0.0.1/8"]}}`), []byte{})
	f.Fuzz(func(t *testing.T, raw, content []byte) {
		s := &stand{}
		a, _ := serveRequest(t.Context(), raw, content, s)
		if a.Kind == "internal" {
			t.Error(a.Error)
		}
	})
}
