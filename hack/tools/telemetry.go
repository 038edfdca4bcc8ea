package tools

import "path/filepath"

const (
	prometheus    = "github.com/prometheus/prometheus@v0.316.0"
	prometheusSum = "h1:f1GRFerhTMKQma+awCoC9T820ecWeGSdF+xAlMHzZzM="
)

// Prometheus is the server that scrapes metrics, and promtool, which judges them. They know no
// targets but those in their configuration, and have no pages for people.
func Prometheus() []Tool {
	var all []Tool
	for _, name := range []string{"prometheus", "promtool"} {
		all = append(all, Tool{Name: name, Module: prometheus, Sum: prometheusSum, Package: "./cmd/" + name, Tags: "remove_all_sd"})
	}
	return all
}

// Collector is the OpenTelemetry Collector. Its project publishes components, not a program
// that could be built by itself; ours is in hack/tools/otelcol. Root is the directory of Cricket's
// module.
func Collector(root string) Tool {
	return Tool{Name: "otelcol", Source: filepath.Join(root, "hack", "tools", "otelcol"), Package: "."}
}
