package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strconv"
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
		if got := quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %v, want %v", c.q, c.of, got, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	o, err := parse([]string{"--endpoint", "a=unix:///a", "--endpoint", "unix:///b", "--processes", "a=x,12", "--rounds", "5"})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.endpoints) != 2 || o.endpoints[0].address != "unix:///a" || o.endpoints[1].name != "unix:///b" {
		t.Errorf("endpoints are %+v", o.endpoints)
	}
	if strings.Join(o.endpoints[0].processes, " ") != "x 12" || o.rounds != 5 {
		t.Errorf("parsed %+v", o)
	}
	for _, bad := range [][]string{
		{},
		{"--endpoint", "a=unix:///a", "--processes", "b=x"},
		{"--endpoint", "a=unix:///a", "--handler", "b=vm"},
		{"--endpoint", "a=unix:///a", "--endpoint", "a=unix:///b"},
		{"--endpoint", "a", "--rounds", "-1"},
	} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func TestParseHandlers(t *testing.T) {
	o, err := parse([]string{"--handler", "c", "--handler", "b=vm", "--handler", "d=", "--endpoint", "a=x", "--endpoint", "b=x", "--endpoint", "d=x"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range o.endpoints {
		got = append(got, e.name+"="+e.handler)
	}
	if strings.Join(got, " ") != "a=c b=vm d=" {
		t.Errorf("handlers are %v", got)
	}
}

func TestReports(t *testing.T) {
	a, b := newResult("a"), newResult("b")
	a.add("Run", 10*time.Millisecond)
	a.add("Run", 30*time.Millisecond)
	b.add("Run", 20*time.Millisecond)
	b.add("Stop", 5*time.Millisecond)
	a.addRate("log", 10)
	a.addRate("log", 30)
	b.addRate("volume: read", 1000)
	a.Memory = &memoryResult{Pods: 2, Idle: usage{PSS: 1 << 20}, Loaded: usage{Processes: 3, PSS: 5 << 20}}
	var table bytes.Buffer
	if err := writeTable(&table, []*result{a, b}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.0 / 30.0 / 30.0 (2)", "20.0 / 20.0 / 20.0 (1)", "Stop", "10.0 / 10.0 (2)", "1000.0 / 1000.0 (1)", "a pod: 2.00, with all that is shared 2.50"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is not in\n%s", want, &table)
		}
	}
	var out bytes.Buffer
	if err := writeJSON(&out, []*result{a, b}); err != nil {
		t.Fatal(err)
	}
	var back []result
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back) != 2 || back[0].Calls[0].P90 != 30 {
		t.Errorf("wrote %s (%v)", &out, err)
	}
}

func TestProcessMemory(t *testing.T) {
	u, err := processMemory([]string{strconv.Itoa(os.Getpid())})
	if err != nil || u.Processes != 1 || u.PSS == 0 || u.RSS < u.PSS {
		t.Errorf("this process uses %+v (%v)", u, err)
	}
	if u, err = processMemory(nil); err != nil || u.Processes != 0 || u.PSS != 0 {
		t.Errorf("no process uses %+v (%v)", u, err)
	}
}
