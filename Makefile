# `make help` lists the targets. Needs Rust, Go, a C compiler and make; everything else is built.

CARGO ?= cargo
# Architecture of the image; by default that of this machine.
ARCH ?= $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
# cargo-deny and cargo-fuzz are built once into the test bed's folder.
DENY_VERSION := 0.20.2
DENY := .bed/tools/bin/cargo-deny
# The fuzz targets are a separate package in fuzz/.
FUZZ_VERSION := 0.13.2
FUZZ := .bed/tools/bin/cargo-fuzz

.DEFAULT_GOAL := help
.PHONY: help build image quickstart bed bed-charts bed-gitops bed-node bed-prometheus consumers prerequisites \
	test e2e spec-changes split-brain faults mutations fuzz decompression-bombs soak bench \
	chart-generated chart-check chart-test lint format generated check-generated deny ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program for release: target/release/eventexport
	$(CARGO) build --release --locked --features jemalloc

image: prerequisites ## Build the image for ARCH (amd64, arm64) without a daemon: target/image/eventexport-ARCH.tar
	sh image/build $(ARCH)

quickstart: ## Export from the built-in simulator to ./export
	$(CARGO) run --release --locked -- run -f examples/quickstart.yaml --simulate --to ./export

bed: ## Build the test bed (API server, controllers, etcd, kubectl, S3 gateway) into .bed/bin; cached
	$(MAKE) -C tests/bed

bed-charts: ## Build the tools that install and check the chart (helm, helm-unittest, kubeconform, kube-score, helm-docs); cached
	$(MAKE) -C tests/bed charts

bed-gitops: ## Build the GitOps tools (Flux controllers, Argo CD health checks, kstatus); cached
	$(MAKE) -C tests/bed gitops

bed-node: prerequisites ## Build the node components that run Pods on this machine (kubelet, containerd, runc, …); cached
	$(MAKE) -C tests/bed node

# Debian packages: a linker for static programs, the C library of runc's seccomp filter, and buildah.
prerequisites:
	@sh tests/bed/prerequisites

e2e: image bed bed-charts bed-node ## Test the image and the chart on a real node; needs root (CONTRIBUTING.md)
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact node::a_release_survives_its_lifecycle_on_a_real_node

spec-changes: bed ## Test each spec change at each lifecycle phase, and clock jumps; needs Debian's faketime
	$(CARGO) test --locked --test it -- --ignored --nocapture --test-threads 1 spec_changes::

faults: bed ## Inject each fault into each request of an export, and pairs of faults; 30 to 120 minutes (docs/faults.md)
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact faults::campaign::every_fault_at_every_request_leaves_no_trace

mutations: bed ## Apply each mutation patch and check that a test fails; an hour (docs/faults.md)
	tests/mutations/run

bed-prometheus: ## Build Prometheus and promtool for the monitoring tests; cached
	$(MAKE) -C tests/bed prometheus

consumers: ## Fetch Elasticsearch (Maven) and DuckDB (pip) for the consumer tests; reports what is unavailable
	tests/bed/elasticsearch
	tests/bed/duckdb

bench: build bed ## Measure the byte path against other tools (15 min on an idle machine; BENCH=--quick: 3 min) into bench/RESULTS.md
	sh bench/prepare
	bench/bytes $(BENCH)
	.bed/bench/venv/bin/python bench/report

# Settings: EVENTEXPORT_SOAK_EXPORTS (2000), _SPACES (4), _SECONDS with kills (600), _LIFE of a leader in seconds (14), _ROUNDS (4).
soak: bed ## Run 2,000 exports through service and store faults and operator kills; 15 to 25 minutes
	$(CARGO) build --release --locked --features jemalloc
	mkdir -p bench/results
	EVENTEXPORT_PROGRAM=$(CURDIR)/target/release/eventexport EVENTEXPORT_BENCH_CSV=$(CURDIR)/bench/results/soak.csv \
	  $(CARGO) test --locked --test it -- --ignored --nocapture --exact scale::soak::thousands_of_exports_complete_despite_kills_and_faults

test: bed bed-charts bed-gitops bed-prometheus ## Run all tests on the test bed
	$(CARGO) test --locked

split-brain: bed ## Freeze a leader at each request of an export, let another one take over, and resume the first; minutes
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact split_brain::frozen_leader::a_leader_frozen_at_any_point_sends_and_corrupts_nothing

chart-generated: bed bed-charts ## Generate the chart's CRD copy, its README and deploy/
	tests/chart/generate

chart-check: bed bed-charts bed-gitops ## Check the chart and deploy/ without a cluster: lint, unit tests, schemas, kube-score
	tests/chart/check

chart-test: chart-check ## Check the chart and install it on a real API server
	$(CARGO) test --locked --test it -- operator::chart operator::manifests operator::rbac operator::end_to_end

lint: ## Check formatting, lints and naming; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	tests/naming --check

format: ## Format the sources
	$(CARGO) fmt

generated: bed bed-charts bed-gitops ## Regenerate crds/, the generated parts of docs/, the chart's files and deploy/
	UPDATE_DOCS=1 $(CARGO) test --locked --test it -- api:: cli::tutorial docs:: export::fault_presets operator::kubectl_output gitops::reasons day_two::policy
	tests/chart/generate

check-generated: ## Check that crds/ is what `eventexport crd` prints
	@$(CARGO) run --quiet --locked -- crd | diff -u crds/eventexports.yaml - \
	  && echo 'crds/eventexports.yaml is up to date'

$(DENY):
	$(CARGO) install --quiet --locked --root .bed/tools cargo-deny --version $(DENY_VERSION)

deny: $(DENY) ## Check licenses, sources and duplicates of the dependencies
	$(DENY) --locked check bans licenses sources

$(FUZZ):
	$(CARGO) install --quiet --locked --root .bed/tools cargo-fuzz --version $(FUZZ_VERSION)

fuzz: $(FUZZ) ## Run each fuzz target for FUZZ_SECONDS (60) from the seeds in fuzz/seeds
	nice fuzz/run

decompression-bombs: ## Measure the program's memory on days that grow from 10 MiB to 10 GiB; minutes
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact malicious_peers::memory::decompression_bombs_of_ten_gib_use_bounded_memory

ci: lint check-generated deny chart-check test ## Run all checks of CI

clean: ## Remove build output and the test bed
	$(CARGO) clean
	$(MAKE) -C tests/bed clean
