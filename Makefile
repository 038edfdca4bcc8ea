# Cricket. `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO_BUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
SOCKET := /run/cricket/cricket.sock

# go test, but for tests that skip themselves: those fail unless test/gotest/skips.txt lists them.
GO_TEST := go run ./test/gotest -vet=off

# Packages with unit tests only; the suites below test/ start daemons.
UNIT := ./cri/... ./sandbox/... ./runtime/... ./cmd/... ./hack/... ./test/layout/... ./test/coverage/... ./test/critest/... ./test/gotest/... ./test/specs/... ./test/upstream/... ./test/harness/... ./test/images/... ./test/bench/... ./test/clusterbench/...

.DEFAULT_GOAL := help
.PHONY: help setup build run test cri-coverage test-unit test-failpoints test-integration test-integration-vm test-integration-vm-quick test-conformance test-vm test-diff test-diff-vm test-trees test-critest test-critest-vm test-critest-next test-kubelet test-long test-vm-workloads test-telemetry test-node test-e2e test-e2e-long test-clusterbench conformance fuzz cluster cluster-down shell race lint bench test-bench guest guest-kernel clean $(wildcard cmd/*)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what running Cricket needs and the machine lacks
	@hack/setup run

build: $(wildcard cmd/*) ## build every program into ./bin

# Static: the programs run on any Linux.
$(wildcard cmd/*):
	@mkdir -p bin
	CGO_ENABLED=0 $(GO_BUILD) -o bin/$(notdir $@) ./$@

run: setup build ## set the machine up and run cricketd in the foreground
	@echo
	@echo "cricketd listens on unix://$(SOCKET). In another terminal:"
	@echo "  export CONTAINER_RUNTIME_ENDPOINT=unix://$(SOCKET)"
	@echo "  $(CURDIR)/bin/crictl info"
	@echo "Ctrl-C stops the daemon; pods run on."
	@echo
	@PATH="$(CURDIR)/bin:$$PATH" exec bin/cricketd

test: ## everything that a change must pass: vet, lint, unit, race, failing steps, conformance, integration and critest for both hulls
	@hack/setup test
	@# One failure does not keep the others from being seen.
	$(MAKE) --keep-going build race test-failpoints test-conformance test-vm test-integration test-integration-vm-quick test-trees test-critest test-critest-vm lint

guest: ## what virtual machines boot, into ./bin/guest: Debian's kernel and cricket-guest
	@go run ./hack/guest image

guest-kernel: ## besides, a small kernel that boots twice as fast; ten minutes or more
	@hack/setup kernel
	@nice go run ./hack/guest kernel

test-unit: ## unit tests
	$(GO_TEST) $(UNIT)

race: ## unit tests under the race detector
	CGO_ENABLED=1 $(GO_TEST) -race $(UNIT)

# Steps of flows fail, hold and kill only in a build of their own.
test-failpoints: ## every step of a flow fails, or kills the program that takes it
	$(GO_TEST) -tags failpoint -run 'Failpoint|EveryStep|DriverProcess' ./runtime/flow ./runtime/image ./sandbox

# What the tests do with the fields of the API is recorded, and compared with test/coverage.
test-integration: guest ## integration suite against a private cricketd
	@rm -f .cache/coverage/kernel.json
	CRICKET_TEST_RECORD=$(CURDIR)/.cache/coverage/kernel.json $(GO_TEST) -count=1 -timeout 20m ./test/integration/...
	@go run ./test/coverage -hull kernel -recording .cache/coverage/kernel.json

# A kernel that was built besides would be taken, and it cannot be made to panic.
test-integration-vm test-integration-vm-quick: export CRICKET_TEST_KERNEL ?= debian

test-integration-vm: guest ## integration suite with every pod in a virtual machine
	@rm -f .cache/coverage/vm.json
	CRICKET_TEST_RECORD=$(CURDIR)/.cache/coverage/vm.json CRICKET_TEST_HULL=vm $(GO_TEST) -count=1 -timeout 150m ./test/integration
	@go run ./test/coverage -hull vm -recording .cache/coverage/vm.json

cri-coverage: ## docs/cri-coverage.md, from the table in test/coverage/fields
	@go run ./test/coverage -write

# Every step of every flow takes the better part of an hour; the kills at random do not.
test-integration-vm-quick: guest
	CRICKET_TEST_HULL=vm $(GO_TEST) -count=1 -timeout 15m -run '^(TestPodLife|TestRestart|TestExec|TestLogs|TestMachineDies|TestMachineDiesUnseen|TestKillsAtRandom)$$' ./test/integration

test-conformance: guest ## what every driver of sandboxes must pass
	$(GO_TEST) -count=1 -timeout 20m ./test/conformance

test-diff: ## pods of many configurations see what they see under containerd, but for test/diff/differences.txt
	CGO_ENABLED=0 $(GO_TEST) -count=1 -timeout 30m -parallel 128 -run '^TestKernel$$' ./test/diff

# With every pod a virtual machine besides.
test-diff-vm: guest
	CGO_ENABLED=0 $(GO_TEST) -count=1 -timeout 90m -parallel 128 -run '^TestVM$$' ./test/diff

test-trees: guest ## root file systems in both hulls are what containerd's snapshotter presents, but for test/diff/trees.txt
	CGO_ENABLED=0 $(GO_TEST) -count=1 -timeout 60m -run '^TestTrees' ./test/diff

test-vm: guest ## virtual machines, emulated: guest, executor, QEMU, templates, volumes; and what needs their kernel
	CGO_ENABLED=0 $(GO_TEST) -count=1 -p 1 -timeout 30m ./vmsandbox/... ./test/quota

test-critest: ## CRI's conformance suite against a private cricketd
	@go run ./test/critest --cricketd bin/cricketd

test-critest-vm: guest ## the same with every pod a virtual machine, emulated if need be, of Debian's kernel
	@go run ./test/critest --cricketd bin/cricketd --hull vm --kernel debian

test-critest-next: guest ## the next version of the suite, with its specs for NRI plugins, metrics and image volumes, in both hulls
	@go run ./test/critest --cricketd bin/cricketd --critest 1.37.0
	@go run ./test/critest --cricketd bin/cricketd --critest 1.37.0 --hull vm --kernel debian

test-kubelet: ## a kubelet runs, restarts and removes a static pod on a private cricketd
	@go run ./test/kubelet --cricketd bin/cricketd

shell: build ## a shell beside a private cricketd, with crictl and the test images
	@hack/setup test
	@go run ./test/critest --cricketd bin/cricketd --shell bash

test-long: build ## what takes longer: 500 containers, integration under the race detector, critest three times and against containerd, its next version, workloads in virtual machines, Prometheus and an OpenTelemetry Collector, a kubelet, a cluster three times and its times beside containerd's, the virtual node, fuzzers, Kubernetes' conformance specs
	@hack/setup test
	CRICKET_TEST_LONG=1 $(GO_TEST) -count=1 -timeout 20m -v -run FiveHundred ./runtime/monitor
	CRICKET_TEST_LONG=1 $(GO_TEST) -count=1 -timeout 40m -v -run MillionEntries ./runtime/layer
	CRICKET_TEST_RACE=1 CRICKET_TEST_LONG=1 $(GO_TEST) -count=1 -timeout 60m ./test/integration/...
	@go run ./test/critest --cricketd bin/cricketd --repeat 3
	@go run ./test/critest --runtime containerd --repeat 2
	$(MAKE) test-critest-next
	$(MAKE) test-diff test-diff-vm
	@hack/setup work
	CRICKET_TEST_LONG=1 $(MAKE) test-trees
	CRICKET_TEST_LONG=1 $(MAKE) test-integration-vm
	$(MAKE) test-vm-workloads
	$(MAKE) test-telemetry
	$(MAKE) test-kubelet
	$(MAKE) test-bench
	$(MAKE) test-e2e-long
	$(MAKE) test-clusterbench
	$(MAKE) test-node
	$(MAKE) fuzz
	$(MAKE) conformance

fuzz: ## every fuzzer for ten minutes, hours in all
	@hack/fuzz

test-vm-workloads: guest ## databases, systemd and a hostile guest in virtual machines
	@hack/setup work
	$(GO_TEST) -count=1 -v -timeout 30m ./test/workload

test-telemetry: guest ## a Prometheus scrapes the daemon and an OpenTelemetry Collector takes its traces, in both hulls
	CGO_ENABLED=0 $(GO_TEST) -count=1 -timeout 60m ./test/telemetry
	CRICKET_TEST_HULL=vm CGO_ENABLED=0 $(GO_TEST) -count=1 -timeout 60m -run '^TestPod$$' ./test/telemetry

test-node: build ## Cricket in a virtual machine with systemd, cgroup v2 and AppArmor
	@hack/setup node
	@go run ./test/critest --bundle .cache/bundle
	@go run ./test/node

cluster: build guest ## a Kubernetes cluster of one node on Cricket, in namespaces of its own; twenty minutes the first time
	@hack/setup test
	@go run ./hack/tools/install --to bin kubectl
	@go run ./hack/cluster up

cluster-down: ## remove the cluster without a trace
	@go run ./hack/cluster down

test-e2e: build guest ## objects of the Kubernetes API on such a cluster, in both hulls
	@hack/setup test
	@go run ./hack/tools/install --to bin kubectl
	CGO_ENABLED=0 $(GO_TEST) -count=1 -p 1 -parallel 4 -timeout 90m ./test/clusterlife ./test/e2e

# Three times as a whole, and the churn for ten minutes.
test-e2e-long: build guest
	@hack/setup test
	@go run ./hack/tools/install --to bin kubectl
	CGO_ENABLED=0 $(GO_TEST) -count=3 -p 1 -parallel 4 -timeout 240m ./test/clusterlife ./test/e2e
	CRICKET_TEST_LONG=1 CGO_ENABLED=0 $(GO_TEST) -count=1 -timeout 60m -run TestChurn ./test/e2e

test-clusterbench: build guest ## how fast a cluster starts and deletes pods, as a gate: on Cricket beside containerd, within the bounds of test/clusterbench/gate.go
	@hack/setup test
	@go run ./test/clusterbench --cricketd bin/cricketd --gate

conformance: build guest ## Kubernetes' own conformance specs, as far as they suit one node, in both hulls and on containerd, side by side; hours
	@hack/setup work
	@go run ./test/upstream --cricketd bin/cricketd

lint: ## go vet, golangci-lint
	go vet ./...
	@go run ./hack/tools/install --to bin golangci-lint
	bin/golangci-lint run ./...

bench: build guest ## Cricket, on the kernel and in virtual machines, beside containerd with runc and crun: everything, into docs/benchmarks.md; two hours
	@hack/setup bench
	@go run ./test/bench --document docs/benchmarks.md

test-bench: build ## a little of it as a gate: Cricket beside containerd, within the bounds of test/bench/gate.txt
	@hack/setup test
	@go run ./test/bench --gate

clean: ## remove what was built; .cache too
	rm -rf bin .cache
