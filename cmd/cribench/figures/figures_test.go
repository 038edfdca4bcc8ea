package figures

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	ten := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		of      []float64
		q, want float64
	}{{ten, 0.5, 5}, {ten, 0.9, 9}, {ten, 0.99, 10}, {[]float64{7}, 0.5, 7}, {[]float64{7}, 0.99, 7}} {
		if got := Quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %v, want %v", c.q, c.of, got, c.want)
		}
	}
	if got := Quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestSlope(t *testing.T) {
	for _, c := range []struct {
		points []Point
		want   float64
	}{
		{[]Point{{50, 100}, {250, 140}}, 0.2},
		{[]Point{{0, 5}, {1, 4}, {2, 3}}, -1},
		{[]Point{{0, 0}, {1, 3}, {2, 3}, {3, 6}}, 1.8},
	} {
		if got := Slope(c.points); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("slope of %v is %v, want %v", c.points, got, c.want)
		}
	}
	if got := Slope([]Point{{1, 2}}); !math.IsNaN(got) {
		t.Errorf("one point has the slope %v", got)
	}
}

func TestRunIsWrittenAndRead(t *testing.T) {
	e := &Endpoint{Name: "a", Version: "1"}
	e.AddTime("start", "pod start", 30*time.Millisecond)
	e.AddTime("start", "pod start", 10*time.Millisecond)
	e.Add("log", "log", Rate, 100)
	r := &Run{Host: Host{CPUs: 2, Load: [2]float64{3, 0}}, Endpoints: []*Endpoint{e}}
	var out bytes.Buffer
	if err := r.Write(&out); err != nil {
		t.Fatal(err)
	}
	back, err := Read(&out)
	if err != nil {
		t.Fatal(err)
	}
	s := back.Endpoint("a").Find("start/pod start")
	if s == nil || s.P50 != 10 || s.Max != 30 || s.More || len(s.Samples) != 2 {
		t.Errorf("read %+v", s)
	}
	if s := back.Endpoint("a").Find("log/log"); s == nil || !s.More {
		t.Errorf("read %+v, want more to be better", s)
	}
	if got := strings.Join(back.Sections(), ","); got != "start,log" {
		t.Errorf("sections are %s", got)
	}
	if got := back.Keys("start"); len(got) != 1 || got[0] != "start/pod start" {
		t.Errorf("keys are %v", got)
	}
	if !back.Host.Busy() || back.Endpoint("b") != nil {
		t.Errorf("read %+v", back)
	}
	if _, err := Read(strings.NewReader(`{"endpoints":[{"name":"a","series":[{"name":"x"}]}]}`)); err == nil {
		t.Error("a series without samples was read")
	}
}

func TestStat(t *testing.T) {
	s := &Series{P50: 1, P90: 2, P99: 3, Min: 4, Max: 5}
	for i, name := range []string{"p50", "p90", "p99", "min", "max"} {
		if got, err := s.Stat(name); err != nil || got != float64(i+1) {
			t.Errorf("%s is %v (%v)", name, got, err)
		}
	}
	if _, err := s.Stat("mean"); err == nil {
		t.Error("there is a mean")
	}
}
