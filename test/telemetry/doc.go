// Package telemetry tests what operators see of a node with the programs that they see it with:
// a Prometheus scrapes the daemon, and an OpenTelemetry Collector takes its traces.
package telemetry
