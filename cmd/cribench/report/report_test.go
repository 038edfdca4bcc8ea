package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/cmd/cribench/figures"
)

// threeEndpoints is a run with figures that are easy to see.
func threeEndpoints() *figures.Run {
	run := &figures.Run{}
	for i, name := range []string{"a", "b<1>", "c"} {
		e := &figures.Endpoint{Name: name, Version: "v" + name}
		for n := range 10 {
			e.AddTime("start", "pod start", time.Duration(i+1)*time.Duration(n+1)*10*time.Millisecond)
		}
		if i != 1 {
			e.Add("log", "log", figures.Rate, float64(100*(i+1)))
			e.Add("log", "log", figures.Rate, float64(300*(i+1)))
		}
		run.Endpoints = append(run.Endpoints, e)
	}
	run.Endpoints[1].Errors = []string{"log: no such thing"}
	run.Host = figures.Host{CPUs: 2, Load: [2]float64{1, 1}}
	run.Summarize()
	return run
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := Table(&out, threeEndpoints()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"START", "50.0 / 90.0 / 100", "100 / 180 / 200 [0.50]", "150 / 270 / 300 [0.33]", "  0.50\n",
		"log (MiB/s)", "100 (100 to 300)", "300 (300 to 900) [0.33]", "b<1>: log: no such thing", "c: vc",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "BUSY") {
		t.Errorf("a quiet host is called busy:\n%s", &out)
	}
}

func TestMarkdown(t *testing.T) {
	run := threeEndpoints()
	run.Host.Load[0] = 9
	var out bytes.Buffer
	if err := Markdown(&out, run, map[string]string{"start": "x/start.svg"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"### start", "|  | a | b<1> | c | to the best other |", "![start](x/start.svg)", "| log (MiB/s) | 100 (100 to 300) | - |", "THE HOST WAS BUSY", "Not measured of b<1>: log"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0123: "0.012", 0.5: "0.50", 9.999: "10.0", 12.34: "12.3", 99.96: "100", 1234.5: "1234", -3.21: "-3.21"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
}

func TestPlot(t *testing.T) {
	var out bytes.Buffer
	drawn, err := Plot(&out, threeEndpoints(), "start")
	if err != nil || !drawn {
		t.Fatalf("drawn: %v, %v", drawn, err)
	}
	d := xml.NewDecoder(bytes.NewReader(out.Bytes()))
	curves := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, &out)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "path" {
			for _, a := range e.Attr {
				if a.Name.Local == "stroke-width" {
					curves++
				}
			}
		}
	}
	if curves != 3 {
		t.Errorf("%d curves, want 3:\n%s", curves, &out)
	}
	if !strings.Contains(out.String(), "b&lt;1&gt;") {
		t.Errorf("the legend is wrong:\n%s", &out)
	}
	out.Reset()
	if drawn, err := Plot(&out, threeEndpoints(), "log"); drawn || err != nil || out.Len() > 0 {
		t.Errorf("rates were drawn: %v, %s", err, &out)
	}
}

func TestSteps(t *testing.T) {
	if got, want := steps([]float64{10, 5}, 10), "M0 105H125.0V52.5H250.0V0.0"; got != want {
		t.Errorf("steps are %s, want %s", got, want)
	}
	if got, want := steps([]float64{5, 100}, 10), "M0 105H125.0V52.5H250"; got != want {
		t.Errorf("steps are %s, want %s", got, want)
	}
}

func TestTick(t *testing.T) {
	for most, want := range map[float64]float64{0: 1, 1: 0.2, 6: 1, 14: 2, 30: 5, 62: 10, 0.05: 0.01, 350: 50} {
		if got := tick(most); math.Abs(got-want) > 1e-9 {
			t.Errorf("an axis to %v has ticks at each %v, want %v", most, got, want)
		}
	}
}

func TestExpectations(t *testing.T) {
	for text, want := range map[string]string{
		"start/pod start: a p50 <= 0.5 * b<1>":               "met     start/pod start: a p50 <= 0.5 * b<1>: 50.0, bound 50.0",
		"start/pod start: a p50 <= 0.49 * b<1>":              "MISSED  start/pod start: a p50 <= 0.49 * b<1>: 50.0, bound 49.0",
		"start/pod start: a p50 <= 0.4 * best(b<1>, c)":      "MISSED  start/pod start: a p50 <= 0.4 * best(b<1>, c): 50.0, bound 40.0",
		"start/pod start: a p50 <= 0.4 * c":                  "met     start/pod start: a p50 <= 0.4 * c: 50.0, bound 60.0",
		"start/pod start: a p99 <= 99":                       "MISSED  start/pod start: a p99 <= 99: 100, bound 99.0",
		"log/log: c min >= 2.9 * a":                          "met     log/log: c min >= 2.9 * a: 300, bound 290",
		"log/log: c min >= 3.1 * a":                          "MISSED  log/log: c min >= 3.1 * a: 300, bound 310",
		"log/log: a p50 >= 0.1 * best(b<1>, x)":              "MISSED  log/log: a p50 >= 0.1 * best(b<1>, x): log/log of b<1> was not measured",
		"log/log: a p50 >= 0.1 * best(b<1>, c)":              "met     log/log: a p50 >= 0.1 * best(b<1>, c): 100, bound 30.0",
		"log/log: b<1> p50 >= 1":                             "MISSED  log/log: b<1> p50 >= 1: log/log of b<1> was not measured",
		"log/log: x p50 >= 1":                                "MISSED  log/log: x p50 >= 1: x was not measured",
		"# nothing but words\n\n  log/log: a max <= 300    ": "met     log/log: a max <= 300: 300, bound 300",
	} {
		all, err := ReadExpectations(strings.NewReader(text))
		if err != nil || len(all) != 1 {
			t.Errorf("%s: read %v (%v)", text, all, err)
			continue
		}
		outcomes := Hold(threeEndpoints(), all)
		if got := outcomes[0].String(); got != want {
			t.Errorf("%s\n gave %s\n want %s", text, got, want)
		}
		if missed := Missed(outcomes) == 1; missed != strings.HasPrefix(want, "MISSED") {
			t.Errorf("%s: missed is %v", text, missed)
		}
	}
	for _, bad := range []string{"a p50 <= 1", "x: a p51 <= 1", "x: a p50 < 1", "x: a p50 <= 1 * best()", "x: a p50 <= 1.2.3"} {
		if all, err := ReadExpectations(strings.NewReader("\n" + bad)); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s was read as %v (%v)", bad, all, err)
		}
	}
}

func TestMarkdownOutcomes(t *testing.T) {
	all, err := ReadExpectations(strings.NewReader("start/pod start: a p50 <= 0.4 * c\nstart/pod start: a p50 <= 1\nlog/log: x p50 >= 1"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := MarkdownOutcomes(&out, Hold(threeEndpoints(), all)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"* c | 50.0 | 60.0 | met |", "<= 1 | 50.0 | 1.00 | missed |", "x was not measured |  | open |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}
