# Cricket. `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
GO_BUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
SOCKET := /run/cricket/cricket.sock

# Packages with unit tests only; the suites below test/ start daemons.
UNIT := ./cri/... ./sandbox/... ./runtime/... ./cmd/... ./hack/... ./test/layout/... ./test/critest/... ./test/harness/... ./test/images/...

.DEFAULT_GOAL := help
.PHONY: help setup build run test test-unit test-integration test-critest test-kubelet test-long test-node shell race lint bench clean $(wildcard cmd/*)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

test: ## everything that a change must pass: vet, lint, unit, race, integration, critest
	@hack/setup test
	@# One failure does not keep the others from being seen.
	$(MAKE) --keep-going build race test-integration test-critest lint

test-unit: ## unit tests
	go test -vet=off $(UNIT)

race: ## unit tests under the race detector
	CGO_ENABLED=1 go test -vet=off -race $(UNIT)

test-integration: ## integration suite against a private cricketd
	@if compgen -G 'test/integration/*_test.go' >/dev/null; then go test -vet=off -count=1 -timeout 20m ./test/integration/...; fi

test-critest: ## CRI's conformance suite against a private cricketd
	@go run ./test/critest --cricketd bin/cricketd

test-kubelet: ## a kubelet runs, restarts and removes a static pod on a private cricketd
	@go run ./test/kubelet --cricketd bin/cricketd

shell: build ## a shell beside a private cricketd, with crictl and the test images
	@hack/setup test
	@go run ./test/critest --cricketd bin/cricketd --shell bash

test-long: build ## what takes longer: 500 containers, integration under the race detector, critest three times and against containerd, a kubelet, the virtual node
	@hack/setup test
	CRICKET_TEST_LONG=1 go test -vet=off -count=1 -timeout 20m -v -run FiveHundred ./runtime/monitor
	CRICKET_TEST_RACE=1 CRICKET_TEST_LONG=1 go test -vet=off -count=1 -timeout 60m ./test/integration/...
	@go run ./test/critest --cricketd bin/cricketd --repeat 3
	@go run ./test/critest --runtime containerd --repeat 2
	$(MAKE) test-kubelet
	$(MAKE) test-node

test-node: build ## Cricket in a virtual machine with systemd, cgroup v2 and AppArmor
	@hack/setup node
	@go run ./test/critest --bundle .cache/bundle
	@go run ./test/node

lint: ## go vet, golangci-lint
	go vet ./...
	@go run ./hack/tools/install --to bin golangci-lint
	bin/golangci-lint run ./...

bench: build ## latencies of a running cricketd (see bin/cribench --help)
	bin/cribench --endpoint unix://$(SOCKET)

clean: ## remove what was built; .cache too
	rm -rf bin .cache
