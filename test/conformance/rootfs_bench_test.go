package conformance

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cricket-cri/cricket/sandbox"
	"github.com/cricket-cri/cricket/vmsandbox"
	"github.com/cricket-cri/cricket/vmsandbox/node"
)

// BenchmarkRootfs measures the ways in which machines read images. Run it with
// -benchtime=1x; the figures are in its log.
func BenchmarkRootfs(b *testing.B) {
	const pods = 10
	for _, way := range []vmsandbox.Rootfs{vmsandbox.RootfsDisk, vmsandbox.RootfsDAX, vmsandbox.RootfsDirect} {
		b.Run(string(way), func(b *testing.B) {
			h := NewVirtualHull(b, func(o *node.Options) { o.Rootfs = way })
			two, _ := largeImage(b, h)
			for files, image := range map[string][]digest.Digest{"one file": h.Node.Image, "three files": two} {
				m := measures{}
				for i := range pods {
					h.measure(b, fmt.Sprintf("%s-%d", files, i), image, m)
				}
				m.print(string(way) + ", " + files)
			}
		})
	}
	b.Run("strict", func(b *testing.B) {
		h := NewVirtualHull(b, func(o *node.Options) { o.Unshared, o.Pool = true, 0 })
		m := measures{}
		for i := range pods / 2 {
			h.measure(b, strconv.Itoa(i), h.Node.Image, m)
		}
		m.print("strict")
	})
}

type measures map[string][]float64

func (m measures) add(name string, value float64) { m[name] = append(m[name], value) }

func (m measures) since(name string, began time.Time) {
	m.add(name, float64(time.Since(began).Microseconds())/1000)
}

func (m measures) print(title string) {
	fmt.Printf("%s:", title)
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := m[name]
		slices.Sort(values)
		fmt.Printf(" | %s min %.1f p50 %.1f max %.1f", name, values[0], values[len(values)/2], values[len(values)-1])
	}
	fmt.Println()
}

// measure runs a pod and takes its times in milliseconds, and its figures.
func (h *Hull) measure(b *testing.B, name string, image []digest.Digest, m measures) {
	b.Helper()
	began := time.Now()
	c := podConfig(b)
	c.ID = id(b, name+" pod")
	s, err := h.Driver.Create(limited(b), c)
	if err != nil {
		b.Fatal(err)
	}
	m.since("pod ms", began)
	defer remove(b, s)
	time.Sleep(2 * time.Second) // the stock is filled again
	began = time.Now()
	config := h.shell(b, name, idle)
	config.Image = image
	live, err := s.NewContainer(limited(b), config)
	if err != nil {
		b.Fatal(err)
	}
	m.since("create ms", began)
	if err := live.Start(limited(b)); err != nil {
		b.Fatal(err)
	}
	m.since("create+start ms", began)
	beside := h.shell(b, name+"-2", idle)
	beside.Image = image
	began = time.Now()
	if _, err := s.NewContainer(limited(b), beside); err != nil {
		b.Fatal(err)
	}
	m.since("second create ms", began)
	if len(image) == len(h.Node.Image) {
		return
	}
	before := cached(b, live)
	for _, round := range []string{"first", "second"} {
		out := output(b, live, "dd if=/large of=/dev/null bs=1M 2>&1")
		_, rest, _ := strings.Cut(out, " copied, ")
		took, _, _ := strings.Cut(rest, " ")
		seconds, err := strconv.ParseFloat(took, 64)
		if err != nil {
			b.Fatal(out, err)
		}
		m.add(round+" read MB/s", large/1e6/seconds)
	}
	m.add("guest cache MiB", float64(cached(b, live)-before)/(1<<20))
}

func remove(b *testing.B, s sandbox.Sandbox) {
	b.Helper()
	if err := s.Remove(limited(b)); err != nil {
		b.Fatal(err)
	}
}
