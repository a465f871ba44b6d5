# `make help` lists the targets. Needs Rust, Go, a C compiler, make, jq and openssl; everything else is built.

CARGO ?= cargo
# Architecture of the image; by default that of this machine.
ARCH ?= $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# cargo-deny, cargo-fuzz, typos and mdBook are built once into the test bed's folder.
DENY_VERSION := 0.20.2
DENY := .bed/tools/bin/cargo-deny
TYPOS_VERSION := 1.52.0
TYPOS := .bed/tools/bin/typos
MDBOOK_VERSION := 0.5.4
MDBOOK := .bed/tools/bin/mdbook
# The fuzz targets are a separate package in fuzz/.
FUZZ_VERSION := 0.13.2
FUZZ := .bed/tools/bin/cargo-fuzz

# Tests that need more than the test bed, by what they need: prefixes of their names. `make test` leaves them out and lists
# them; `make test-NEED` runs those of one need, `make test-all` all tests. A test checks that each prefix names a test.
NEED_HELM := operator::chart:: operator::manifests::every_install_method operator::rbac::a_namespace_admin
NEED_PROMETHEUS := operator::monitoring::each_alert_fires operator::monitoring::a_real_prometheus
NEED_GITOPS := gitops::drift::a gitops::flux:: gitops::phases:: gitops::reasons::
NEED_CONSUMERS := download::consumers::elasticsearch verify::duckdb::
NEED_BROWSER := browser::
NEED_RELEASE := release_files::
NEED_DOCS := docs_site::every_link
# Tests that `make test-oldest` repeats with the oldest supported Kubernetes.
OLDEST := api:: operator:: day_two:: bed::selftest::the_
NEED_MORE := $(NEED_HELM) $(NEED_PROMETHEUS) $(NEED_GITOPS) $(NEED_CONSUMERS) $(NEED_BROWSER) $(NEED_RELEASE) $(NEED_DOCS)

# Features of dependencies that the tests enable, so that the program and the tests share one build of them.
TEST_FEATURES := --features tokio/test-util,rustix/fs

.DEFAULT_GOAL := help
.PHONY: help build image release release-chart docs quickstart demo demo-down bed bed-oldest bed-charts bed-gitops bed-node bed-prometheus bed-release browser consumers \
	prerequisites test test-all test-oldest test-helm test-prometheus test-gitops test-consumers test-browser test-release test-docs \
	e2e spec-changes split-brain faults mutations fuzz decompression-bombs soak bench \
	chart-generated chart-check lint format generated check-generated deny advisories ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program for release: target/release/eventexport
	$(CARGO) build --release --locked --features jemalloc

image: prerequisites ## Build the image for ARCH (amd64, arm64) without a daemon: target/image/eventexport-ARCH.tar
	sh image/build $(ARCH)

release: prerequisites bed-release ## Build and sign target/release-VERSION; DRY_RUN=1 with a key for the run (docs/releases.md)
	sh release/build

release-chart: bed-release ## Push the chart of target/release-VERSION to REGISTRY/charts, signed with COSIGN_KEY (docs/releases.md)
	sh release/chart target/release-$(VERSION) $(VERSION)

quickstart: ## Export from the built-in simulator to ./export, with a build for development
	$(CARGO) run --locked $(TEST_FEATURES) -- run -f examples/quickstart.yaml --simulate --archive ./export

# A build for development takes a fraction of the time.
demo: export PROFILE := $(or $(PROFILE),dev)
demo: $(if $(DEMO_IMAGE),,image) ## Run operator, simulator, S3 gateway and an export on the local cluster of kubectl's context
	sh examples/demo/demo up

demo-down: ## Remove the demo
	sh examples/demo/demo down

bed: ## Build the test bed (API server, controllers, etcd, kubectl, S3 gateway) into .bed/bin; cached
	$(MAKE) -C tests/bed

bed-oldest: ## Build API server and controllers of the oldest supported Kubernetes into .bed/kubernetes-oldest; cached
	$(MAKE) -C tests/bed oldest

bed-charts: ## Build the tools that install and check the chart (helm, helm-unittest, kubeconform, kube-score, helm-docs); cached
	$(MAKE) -C tests/bed charts

bed-gitops: ## Build the GitOps tools (Flux controllers, Argo CD health checks, kstatus); cached
	$(MAKE) -C tests/bed gitops

bed-node: prerequisites ## Build the node components that run Pods on this machine (kubelet, containerd, runc, …); cached
	$(MAKE) -C tests/bed node

# Debian packages: a linker for static programs, the C library of runc's seccomp filter, and buildah.
prerequisites:
	@sh tests/bed/prerequisites

e2e: image bed bed-charts bed-node ## Test the image, the chart and the demo on a real node; needs root (CONTRIBUTING.md)
	$(CARGO) test --locked --test it -- --ignored --nocapture --test-threads 1 node::

spec-changes: bed ## Test each spec change at each lifecycle phase, and clock jumps; needs Debian's faketime
	$(CARGO) test --locked --test it -- --ignored --nocapture --test-threads 1 spec_changes::

faults: bed ## Inject each fault into each request of an export, and pairs of faults; 30 to 120 minutes (docs/testing.md)
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact faults::campaign::every_fault_at_every_request_leaves_no_trace

mutations: bed ## Apply each mutation patch and check that a test fails; an hour (docs/testing.md)
	tests/mutations/run

bed-prometheus: ## Build Prometheus and promtool for the monitoring tests; cached
	$(MAKE) -C tests/bed prometheus

bed-release: ## Build the tools that make a release and test it (cosign, helm, crane, krew); cached
	$(MAKE) -C tests/bed release

consumers: ## Fetch Elasticsearch (Maven) and DuckDB (pip) for the consumer tests; reports what is unavailable
	tests/bed/elasticsearch
	tests/bed/duckdb

browser: ## Install Chromium (Debian) for the test of reports; says if it is unavailable
	tests/bed/chromium

bench: build bed ## Measure the byte path against other tools (15 min on an idle machine; BENCH=--quick: 3 min) into bench/RESULTS.md
	sh bench/prepare
	bench/bytes $(BENCH)
	.bed/bench/venv/bin/python bench/report

# Settings: EVENTEXPORT_SOAK_EXPORTS (2000), _SPACES (4), _SECONDS with kills (600), _LIFE of a leader in seconds (14), _ROUNDS (4).
soak: build bed ## Run 2,000 exports through service and store faults and operator kills; 15 to 25 minutes
	mkdir -p bench/results
	EVENTEXPORT_PROGRAM=$(CURDIR)/target/release/eventexport EVENTEXPORT_BENCH_CSV=$(CURDIR)/bench/results/soak.csv \
	  $(CARGO) test --locked --test it -- --ignored --nocapture --exact scale::soak::thousands_of_exports_complete_despite_kills_and_faults

test: bed ## Run the tests that need only the test bed, and list the others
	$(CARGO) test --locked -- $(addprefix --skip ,$(NEED_MORE))
	@printf 'test: not run, because they need more tools (make test-all): %s\n' '$(NEED_MORE)'

test-all: bed bed-charts bed-gitops bed-prometheus bed-release browser consumers docs ## Run all tests, those that need further tools too
	$(CARGO) test --locked
	$(MAKE) test-oldest

test-oldest: bed bed-charts bed-oldest ## Run the tests of API, operator and chart with the oldest supported Kubernetes
	EVENTEXPORT_BED_KUBERNETES=kubernetes-oldest \
	  $(CARGO) test --locked --test it -- $(OLDEST) $(addprefix --skip ,$(NEED_PROMETHEUS))

test-helm: bed bed-charts ## Run the tests that install the chart with Helm
	$(CARGO) test --locked --test it -- $(NEED_HELM)

test-prometheus: bed bed-prometheus ## Run the tests that need Prometheus
	$(CARGO) test --locked --test it -- $(NEED_PROMETHEUS)

test-gitops: bed bed-charts bed-gitops ## Run the tests that need Flux, Argo CD's health checks and kstatus
	$(CARGO) test --locked --test it -- $(NEED_GITOPS)

test-consumers: bed consumers ## Run the tests that need Elasticsearch and DuckDB
	$(CARGO) test --locked --test it -- $(NEED_CONSUMERS)

test-browser: browser ## Open a report in Chromium; UPDATE_DOCS=1 renews docs/images/report.png
	$(CARGO) test --locked --test it -- $(NEED_BROWSER)

test-release: bed-release ## Check target/release-VERSION; without it, `make release DRY_RUN=1` makes it, in an hour
	$(CARGO) test --locked --test it -- $(NEED_RELEASE)

test-docs: docs ## Check the links of the documentation's site
	$(CARGO) test --locked --test it -- docs_site::

split-brain: bed ## Freeze a leader at each request of an export, let another one take over, and resume the first; minutes
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact split_brain::frozen_leader::a_leader_frozen_at_any_point_sends_and_corrupts_nothing

chart-generated: bed bed-charts ## Generate the chart's CRD copy, its README and deploy/
	tests/chart/generate

chart-check: bed bed-charts ## Check the chart and deploy/ without a cluster: lint, unit tests, schemas, kube-score
	tests/chart/check

lint: $(TYPOS) ## Check formatting, lints, crate documentation, spelling, naming and unused dependencies; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --no-deps --quiet $(TEST_FEATURES)
	$(TYPOS)
	tests/naming --check
	tests/dependencies

$(TYPOS):
	$(CARGO) install --quiet --locked --debug --root .bed/tools typos-cli --version $(TYPOS_VERSION)

$(MDBOOK):
	$(CARGO) install --quiet --locked --debug --root .bed/tools mdbook --version $(MDBOOK_VERSION) --no-default-features --features search

docs: $(MDBOOK) ## Build the site of the documentation: target/docs/site/index.html
	sh docs/site/build $(CURDIR)/$(MDBOOK)

format: ## Format the sources
	$(CARGO) fmt

generated: bed bed-charts bed-gitops ## Regenerate crds/, the generated parts of docs/, the chart's files and deploy/
	UPDATE_DOCS=1 $(CARGO) test --locked --test it -- api:: cli::tutorial docs:: export::fault_presets operator::kubectl_output gitops::reasons day_two::policy
	tests/chart/generate

check-generated: ## Check crds/ and the parts of docs/ that are generated without a test bed; part of `make test`
	$(CARGO) test --locked --test it -- api::the_committed_crd docs::

$(DENY):
	$(CARGO) install --quiet --locked --debug --root .bed/tools cargo-deny --version $(DENY_VERSION)

deny: $(DENY) ## Check licenses, sources and duplicates of the dependencies
	$(DENY) --locked check bans licenses sources

$(FUZZ):
	$(CARGO) install --quiet --locked --root .bed/tools cargo-fuzz --version $(FUZZ_VERSION)

fuzz: $(FUZZ) ## Run each fuzz target for FUZZ_SECONDS (60) from the seeds in fuzz/seeds
	nice fuzz/run

decompression-bombs: ## Measure the program's memory on days that grow from 10 MiB to 10 GiB; minutes
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact malicious_peers::memory::decompression_bombs_of_ten_gib_use_bounded_memory

advisories: $(DENY) ## Check the dependencies for known vulnerabilities; needs network access to the RustSec database
	$(DENY) --locked check advisories

ci: ## Run all checks of CI
	.ci/run

clean: ## Remove build output and the test bed
	$(CARGO) clean
	$(MAKE) -C tests/bed clean
