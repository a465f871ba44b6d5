# The front door: `make help` lists what there is. Needs Rust, Go, a C compiler and make; all else is built.

CARGO ?= cargo
# Of the image: this machine's own, unless it is said.
ARCH ?= $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,amd64)
# cargo-deny is a tool of the checks, not of the product: it is built once into the bed's folder.
DENY_VERSION := 0.20.2
DENY := .bed/tools/bin/cargo-deny
# So is cargo-fuzz; its targets are a package of their own in fuzz/.
FUZZ_VERSION := 0.13.2
FUZZ := .bed/tools/bin/cargo-fuzz

.DEFAULT_GOAL := help
.PHONY: help build image bed bed-charts bed-gitops bed-node bed-prometheus consumers prerequisites e2e bench faults motion mutations soak chart-generated chart-check chart-test test twice quickstart lint format generated check-generated deny fuzz bombs ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program for release: target/release/eventexport
	$(CARGO) build --release --locked

image: prerequisites ## Build the image of ARCH (amd64, arm64) without a daemon: target/image/eventexport-ARCH.tar
	sh image/build $(ARCH)

quickstart: ## Run the main job on embedded defaults: simulator in, ./export out
	$(CARGO) run --release --locked -- run -f examples/quickstart.yaml --simulate --to ./export

bed: ## Build the test bed (API server, controllers, etcd, kubectl, S3 gateway) into .bed/bin; cached
	$(MAKE) -C tests/bed

bed-charts: ## Build what installs and judges the chart (helm, helm-unittest, kubeconform, kube-score, helm-docs); cached
	$(MAKE) -C tests/bed charts

bed-gitops: ## Build what deploys and judges resources from Git (Flux's controllers, Argo CD's health, kstatus); cached
	$(MAKE) -C tests/bed gitops

bed-node: prerequisites ## Build what makes this machine a node that runs Pods (kubelet, containerd, runc, …); cached
	$(MAKE) -C tests/bed node

# Debian's packages: a linker for static programs, the C library of runc's filter, and what packs images.
prerequisites:
	@sh tests/bed/prerequisites

e2e: image bed bed-charts bed-node ## Run image and chart on a real node; needs root (CONTRIBUTING.md)
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact node::a_release_lives_on_a_real_node_and_loses_nothing

motion: bed ## Play every change at every phase of a resource's life, and set the operator's clock; needs Debian's faketime
	$(CARGO) test --locked --test it -- --ignored --nocapture --test-threads 1 spec_changes::

faults: bed ## Put every fault at every request of an export, and pairs of them; half an hour to two (docs/faults.md)
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact faults::campaign::every_fault_at_every_request_leaves_no_trace

mutations: bed ## Break the product on purpose, and see that a test notices each time; an hour (docs/faults.md)
	tests/mutations/run

bed-prometheus: ## Build Prometheus and promtool, which watch the operator in the tests; cached
	$(MAKE) -C tests/bed prometheus

consumers: ## Fetch what consumes events in the tests (Elasticsearch by Maven, DuckDB by pip); says loudly what cannot be had
	tests/bed/elasticsearch
	tests/bed/duckdb

bench: build bed ## Measure the byte path beside its peers (15 min, machine at rest; BENCH=--quick: 3 min) into bench/RESULTS.md
	sh bench/prepare
	bench/bytes $(BENCH)
	.bed/bench/venv/bin/python bench/report

# Numbers of it: EVENTEXPORT_SOAK_EXPORTS (2000), _SPACES (4), _SECONDS of killing (600), _LIFE of a leader (14), _ROUNDS (4).
soak: bed ## Pass 2,000 exports through faults of service and store, and kills of the operator: 15 to 25 minutes
	$(CARGO) build --release --locked
	mkdir -p bench/results
	EVENTEXPORT_PROGRAM=$(CURDIR)/target/release/eventexport EVENTEXPORT_BENCH_CSV=$(CURDIR)/bench/results/soak.csv \
	  $(CARGO) test --locked --test it -- --ignored --nocapture --exact scale::soak::thousands_of_exports_get_through_kills_and_faults

test: bed bed-charts bed-gitops bed-prometheus ## Pass all tests on the real parts of the test bed
	$(CARGO) test --locked

twice: bed ## Freeze an operator at every moment of an export while another one leads, and let it go on
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact split_brain::frozen_leader::a_leader_frozen_at_any_point_sends_and_corrupts_nothing

chart-generated: bed bed-charts ## Write what is made from the chart and for it: its definition and README, and deploy/
	tests/chart/generate

chart-check: bed bed-charts bed-gitops ## Check the chart and deploy/ without a cluster: lint, unit tests, schemas, habits
	tests/chart/check

chart-test: chart-check ## Check the chart and install it on a real API server
	$(CARGO) test --locked --test it -- operator::chart operator::manifests operator::rbac operator::end_to_end

lint: ## Check formatting and lints; warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	tests/mutations/run --check

format: ## Format the sources
	$(CARGO) fmt

generated: bed bed-charts bed-gitops ## Write the generated files anew: crds/, the generated parts of docs/, the chart's, deploy/
	UPDATE_DOCS=1 $(CARGO) test --locked --test it -- api:: cli::tutorial docs:: export::fault_presets operator::kubectl_output gitops::reasons day_two::policy
	tests/chart/generate

check-generated: ## Check that crds/ is what `eventexport crd` prints
	@$(CARGO) run --quiet --locked -- crd | diff -u crds/eventexports.yaml - \
	  && echo 'crds/eventexports.yaml is up to date'

$(DENY):
	$(CARGO) install --quiet --locked --root .bed/tools cargo-deny --version $(DENY_VERSION)

deny: $(DENY) ## Check licences, sources and duplicates of the dependencies
	$(DENY) --locked check bans licenses sources

$(FUZZ):
	$(CARGO) install --quiet --locked --root .bed/tools cargo-fuzz --version $(FUZZ_VERSION)

fuzz: $(FUZZ) ## Fuzz every reader of bad input for FUZZ_SECONDS each (60), from the seeds in fuzz/seeds
	nice fuzz/run

bombs: ## Send the real program days of 10 GiB that come as 10 MiB, and say how much memory it takes; minutes
	$(CARGO) test --locked --test it -- --ignored --nocapture --exact malicious_peers::memory::decompression_bombs_of_ten_gib_use_bounded_memory

ci: lint check-generated deny chart-check test ## All that CI runs

clean: ## Remove build results and the test bed
	$(CARGO) clean
	$(MAKE) -C tests/bed clean
