# Each target does its own set-up on a fresh Debian with Go. `make help` lists them.

GO     ?= go
BIN    := bin

.PHONY: help build demo test soak lint interop chaos bench lab fuzz arm docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the daemon and the plant simulator into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(BIN)/ ./cmd/waystation ./cmd/waystation-sim

demo: build ## a minute of everything: devices, an outage, a kill -9, and the verdict
	$(BIN)/waystation-sim demo --gateway $(BIN)/waystation

test: ## every hermetic test, with the race detector; a few minutes
	@.ci/need-cc
	$(GO) test -race -count=1 -timeout 15m ./...

soak: ## the long proofs of the queue: 1,000 kills, 1,000 damaged copies, 1,000 power cuts of each kind, …
	.ci/soak

lint: ## gofmt, go vet, staticcheck; also of the lab, a module of its own
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run: gofmt -w .'; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags 'interop bench' ./...
	$(GO) tool staticcheck -tags 'interop bench' ./...
	cd buffer/lab && $(GO) vet ./...
	staticcheck=$$($(GO) tool -n staticcheck) && cd buffer/lab && "$$staticcheck" ./...

interop: ## real mosquitto, Apache Kafka (one node and three) and other clients; installs them
	.ci/interop-deps
	$(GO) test -tags interop -count=1 -timeout 30m -parallel 12 -run 'Interop|BoatLog|Kafka|Mosquitto|Peers' ./cmd/waystation/...

chaos: ## random kills, outages and moves against three Kafka nodes; WAYSTATION_SCHEDULES=200 WAYSTATION_SEED=n
	.ci/interop-deps
	WAYSTATION_SCHEDULES=$(or $(WAYSTATION_SCHEDULES),200) $(GO) test -tags interop -count=1 -timeout 3h -v -run 'TestChaosInterop$$' ./cmd/waystation

bench: ## benchmarks, in the form benchstat reads; COUNT=n runs each n times
	.ci/interop-deps
	$(GO) test -run '^$$' -bench . -benchmem -count $(or $(COUNT),1) ./buffer ./gateway/... ./adapters/...
	$(GO) test -tags bench -run '^$$' -bench . -benchtime 300000x -count $(or $(COUNT),1) -timeout 60m ./cmd/waystation

LAB := $(BIN)/waystation-lab

lab: ## our queue beside others, small; buffer/lab/README.md has the runs that count
	@mkdir -p $(BIN)
	cd buffer/lab && $(GO) build -trimpath -o ../../$(LAB) .
	$(LAB) bench -dir $(BIN)/lab-data -n 20000 -rounds 3
	$(LAB) steady -dir $(BIN)/lab-data -fast -span 200s -rounds 1 -only raw,raw-pre,raw-zstd,waystation,waystation-prefill,bb-key,tidwall,sqlite
	$(LAB) group -dir $(BIN)/lab-data -span 1s -rounds 3
	$(LAB) open -dir $(BIN)/lab-data -n 200000 -rounds 3
	@rm -rf $(BIN)/lab-data

fuzz: ## fuzz every parser and on-disk format; FUZZTIME=30s each
	.ci/fuzz $(or $(FUZZTIME),30s)

arm: ## build for every target; run the suites of 32-bit ARM under qemu-user
	.ci/arm

docs: build ## write the generated pages: docs/configuration.md, the example and the JSON schema
	$(BIN)/waystation describe --markdown > docs/configuration.md
	$(BIN)/waystation describe --example > configs/waystation.example.yaml
	$(BIN)/waystation describe --json > configs/waystation.schema.json

clean: ## remove what was built
	rm -rf $(BIN)
