package telemetry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cricket-cri/cricket/test/harness"
	"github.com/cricket-cri/cricket/test/integration"
)

// prometheus is a Prometheus that scrapes one daemon.
type prometheus struct {
	harness.Process
	address string
	t       *testing.T
}

const prometheusConfig = `
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: cricket
    static_configs:
      - targets: [%q]
`

// startPrometheus returns when Prometheus is ready to scrape target (HOST:PORT).
func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	p := &prometheus{address: freePort(t), t: t}
	config := write(t, "prometheus.yaml", prometheusConfig, target)
	dir := filepath.Dir(config)
	p.Process = harness.Process{Name: "Prometheus", Log: filepath.Join(dir, "log"), Command: func() (*exec.Cmd, error) {
		return exec.Command(integration.Tool("prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
			"--web.listen-address="+p.address, "--log.level=warn"), nil
	}}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	integration.Within(t, time.Minute, "Prometheus is ready", func() bool {
		if err := p.Alive(); err != nil {
			t.Fatalf("%v\n%s", err, p.log())
		}
		resp, err := http.Get("http://" + p.address + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return p
}

func (p *prometheus) log() string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// ask answers a question to Prometheus' API.
func ask[T any](p *prometheus, path string) (data T) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.address + "/api/v1/" + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          T
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s: %v, %s %s", path, err, answer.Status, answer.Error)
	}
	return answer.Data
}

// holds waits until Prometheus has a series for which an expression is true.
func (p *prometheus) holds(expression string) {
	p.t.Helper()
	type vector struct{ Result []json.RawMessage }
	limit := patient()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		if len(ask[vector](p, "query?query="+url.QueryEscape(expression)).Result) > 0 {
			return
		}
		if time.Now().After(deadline) {
			p.t.Errorf("%s does not hold within %s", expression, limit)
			return
		}
	}
}

// patient is how long what must come may take: machines may be emulated.
func patient() time.Duration {
	if integration.InVMs() {
		return 5 * time.Minute
	}
	return 30 * time.Second
}

// page is what a daemon serves to Prometheus.
func page(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("read metrics: %s, %v", resp.Status, err)
	}
	return string(text)
}

// judge is promtool's opinion of our metrics, which are to be beyond remark. Those of the Go
// runtime and the process come from Prometheus' own library.
func judge(t *testing.T, text string) {
	t.Helper()
	c := exec.Command(integration.Tool("promtool"), "check", "metrics")
	c.Stdin = strings.NewReader(text)
	out, err := c.CombinedOutput()
	remarks := 0
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "go_") && !strings.HasPrefix(line, "process_") {
			t.Errorf("promtool: %s", line)
		}
		remarks++
	}
	if err != nil && remarks == 0 {
		t.Error(fmt.Errorf("promtool: %w", err))
	}
}
