# Every task by name. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# A pipe fails with any of its parts.
.SHELLFLAGS := -eo pipefail -c
SUITES ?=
CYCLES ?=
MESSAGES ?= 100000
SEEDS ?= 10000
SECONDS ?=
FROM ?= 0
FAULTS ?=
ROWS ?=

RECORDS ?= 1000000

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: serve
serve: ## Build and run the broker (data in ./data, gRPC on 127.0.0.1:50051).
	cargo run --release -- serve

.PHONY: test
test: ## Install and start what the tests talk to, run all of them, stop it again (SUITES="rust k6" runs some).
	@tests/services/run $(SUITES)

.PHONY: install
install: ## Install what the tests talk to into target/services (nothing that is there already).
	@tests/services/install

.PHONY: fmt
fmt: ## Format the Rust and the Go code.
	cargo fmt --all
	gofmt -w tests/compat-go loadtests/mainjob

.PHONY: lint
lint: ## Check format, clippy and documentation; warnings are errors.
	@tests/services/run format clippy doc

.PHONY: deny
deny: ## Check licences, banned crates, sources, and advisories where their database can be had.
	@tests/services/install deny
	@tests/services/deny.sh

.PHONY: kill
kill: ## kill -9 under load, CYCLES times (100): nothing acknowledged is lost, no id given twice.
	WALCAST_KILL_CYCLES=$(or $(CYCLES),100) cargo test --test it kill_nine -- --nocapture

.PHONY: resume
resume: ## Restarts under load (kill -9 and SIGTERM), CYCLES times (100): subscribers that resume see every id once, in order.
	WALCAST_RESUME_CYCLES=$(or $(CYCLES),100) cargo test --test it resuming -- --nocapture

.PHONY: retries
retries: ## Publishes retried at random (timeouts, resets by a proxy, kill -9), COUNT (100,000): with keys none twice, none lost; without keys some are.
	WALCAST_RETRIES=$(or $(COUNT),100000) WALCAST_RETRIES_KILLS=$(or $(KILLS),5) cargo test --test it retries -- --nocapture --test-threads 1

.PHONY: series-check
series-check: ## Series, size and time of a scrape before and after SUBJECTS (1,000,000) subjects, 100,000 error texts and 10,000 subscribers that are behind.
	WALCAST_SERIES_SUBJECTS=$(or $(SUBJECTS),1000000) WALCAST_SERIES_SUBSCRIBERS=10000 cargo test --locked --test it series -- --nocapture

.PHONY: soak
soak: ## The same with 500 cycles. Both also print what a broker that forgets loses: the control.
	@$(MAKE) --no-print-directory kill CYCLES=500

.PHONY: power-cut
power-cut: ## Cut the power of a virtual machine under load, CYCLES times (200): nothing acknowledged is lost.
	@tests/services/install uml
	WALCAST_CUT_CYCLES=$(or $(CYCLES),200) cargo test --locked --test power-cut -- --nocapture power_cut

.PHONY: power-cut-control
power-cut-control: ## The same with a build that skips fsync (10): fails if it loses nothing.
	@tests/services/install uml
	WALCAST_CUT_CYCLES=$(or $(CYCLES),10) cargo test --locked --features fault-controls --test power-cut -- --nocapture found_out

.PHONY: sim
sim: ## Seeded runs of log, committer and recovery on a disk that crashes, fails and rots (SEEDS=10000 FROM=0, or SEED=n for one with its trace).
	$(if $(SEED),WALCAST_SIM_SEED=$(SEED),WALCAST_SIM_SEEDS=$(SEEDS) WALCAST_SIM_FROM=$(FROM)) cargo test --lib simulation::no_seed -- --nocapture

.PHONY: fuzz
fuzz: ## Coverage-guided fuzzing of segments, records and index files, SECONDS (60) each; KEEP=keep keeps what was found.
	@tests/services/fuzz.sh $(or $(SECONDS),60) $(KEEP)

.PHONY: damage
damage: ## Torn tails and flipped bits by the ten thousand: how many were injected, how many detected.
	@cargo test --quiet --lib wal::tests::exhaustive -- --nocapture | grep -E 'damage:|panicked|test result' | sed 's/.*damage: //'

.PHONY: faults
faults: ## The table of faults: each injected into the real broker under load, with what it did, what was lost, and a control that must fail.
	@tests/services/install strace faults
	@tests/services/faults.sh --all $(FAULTS)

.PHONY: bad-days
bad-days: ## The table of bad days: a real Postgres, a real Cassandra and the broker fail under load in every way (ROWS="kill -9", ARGS=--write, ARGS=--quick).
	@tests/services/install postgres cassandra
	@tests/services/bad-days.sh $(or $(filter --quick,$(ARGS)),--all) $(filter-out --quick,$(ARGS)) $(if $(ROWS),"$(ROWS)")

.PHONY: alerts
alerts: ## Every alert fired by a real fault before a real Prometheus, durations divided by 60: prints a table with the seconds.
	@tests/services/install prometheus postgres strace
	cargo test --locked --test prometheus -- --nocapture alerts::

.PHONY: calm
calm: ## Normal load, clients' mistakes and an orderly restart for SECONDS (3600) with all rules loaded: no alert fires (FACTOR=1: not accelerated, STORE=postgres).
	@tests/services/install prometheus postgres
	WALCAST_CALM_STORE=$(or $(STORE),embedded) WALCAST_CALM_SECONDS=$(or $(SECONDS),3600) WALCAST_CALM_FACTOR=$(or $(FACTOR),1) cargo test --locked --test prometheus -- --nocapture calm::nothing

.PHONY: replay-check
replay-check: ## A log of RECORDS (1,000,000) replayed into a second broker, killed three times on the way: nothing is lost.
	WALCAST_REPLAY_RECORDS=$(RECORDS) cargo test --release --test it killed_three_times -- --nocapture

.PHONY: bench
bench: ## Throughput, latency, memory and cost beside a tonic server that does nothing, interleaved; prints the floors (ARGS=--quick, --check, "--only fetch").
	cargo bench --bench yardstick -- $(ARGS)

.PHONY: bench-control
bench-control: ## The same with a broker that is stopped for most of the time: fails if a floor of a rate or a high percentile holds.
	cargo bench --bench yardstick -- --control --rounds 1 $(ARGS)

.PHONY: performance
performance: ## Everything on docs/performance.md, half an hour: bench, bench-scale, bench-peers, bench-hop, bench-catch-up (ARGS=--quick: 6, writes a copy below target/performance).
	@benches/performance.sh $(ARGS)

.PHONY: bench-backlog
bench-backlog: ## Start-up, memory, Fetch and publishes with a log of 10 GiB, beside an empty broker.
	cargo bench --bench backlog -- --check

.PHONY: bench-log
bench-log: ## The log beside okaywal and a bare loop of pwrite + fdatasync, by batch size, and 60 s at 200 MB/s (ARGS=--quick).
	cargo bench --bench log -- --check $(ARGS)

.PHONY: bench-catch-up
bench-catch-up: ## One subscriber catches up with a million messages: from the log, and from Postgres beside a bare cursor; writes docs/performance.md.
	@benches/performance.sh catch-up --check $(ARGS)

.PHONY: bench-cassandra
bench-cassandra: ## The Cassandra store beside a bare loop of concurrent prepared inserts: rows/s, ratio, time of a fetch.
	@tests/services/install cassandra
	cargo bench --bench cassandra -- --check $(ARGS)

.PHONY: bench-postgres
bench-postgres: ## The Postgres store beside a bare loop of UNNEST inserts, and Fetch with few and many partitions.
	@tests/services/install postgres
	cargo bench --bench postgres -- --check

.PHONY: bench-telemetry
bench-telemetry: ## What metrics and traces cost: publishes with both (a collector, ratio 0.01) beside a build with neither, interleaved (ARGS="--rounds 3").
	cargo build --release --bin walcast --features no-telemetry
	cp target/release/walcast target/release/walcast-no-telemetry
	cargo bench --bench telemetry -- --check --without $(CURDIR)/target/release/walcast-no-telemetry $(ARGS)

.PHONY: bench-peers
bench-peers: ## Publishes beside NATS JetStream and Redis Streams, both syncing before they answer, and a server that does nothing; writes docs/performance.md (ARGS="--rounds 5").
	@benches/performance.sh peers $(ARGS)

.PHONY: bench-peers-control
bench-peers-control: ## The same with NATS and Redis that answer before they sync: fails unless both are found out.
	@tests/services/install nats redis
	cargo bench --bench peers -- --nats $(CURDIR)/target/services/venv/bin/nats-server --control

.PHONY: bench-hop
bench-hop: ## What the hop to the owner costs: publishes to the owner, to another node, and through Envoy with and without affinity; writes docs/performance.md (ARGS="--rounds 5").
	@benches/performance.sh hop --check $(ARGS)

.PHONY: bench-scale
bench-scale: ## How rate and cost grow: every store, directly and through Envoy; size of messages, connections, subjects, subscribers; writes docs/performance.md and its plots (ARGS="--only size").
	@benches/performance.sh scale $(ARGS)

.PHONY: soak-cluster
soak-cluster: ## Bad days of a cluster behind Envoy for longer: ten rolling restarts under 3,000 publishes a second, a node frozen for a minute, a database away for a minute, slots that move while nodes are killed.
	@tests/services/install envoy postgres
	cargo build --locked --release --bin walcast
	WALCAST_BINARY=$(CURDIR)/target/release/walcast WALCAST_ROUNDS=10 WALCAST_RATE=3000 WALCAST_FROZEN=60 WALCAST_DATABASE_AWAY=30 WALCAST_MOVES=100 \
	  cargo test --locked --test cluster -- --nocapture --test-threads 1

.PHONY: trace-tour
trace-tour: ## One publish through a broker with Postgres as a real Jaeger has it: the trace with its links, as text.
	@tests/services/install postgres jaeger
	@cargo test --quiet --locked --test jaeger -- --nocapture tour_of_one_publish | sed -n '/^span/,/^$$/p'

.PHONY: bench-stores
bench-stores: ## Embedded, Postgres and Cassandra through the same workloads; writes docs/stores.md and its plots, 25 minutes (ARGS=--quick: 3, writes a copy below target/).
	@tests/services/install postgres cassandra
	cargo bench --bench stores -- compare $(ARGS)

.PHONY: draw-stores
draw-stores: ## Write docs/stores.md and its plots again from the figures of the last comparison (ARGS=--quick: the copy below target/).
	cargo bench --bench stores -- draw $(ARGS)

.PHONY: bench-expiry
bench-expiry: ## 5,000 messages a second that live 60 s into Postgres, SECONDS (600): fails unless its tables stay as large as they are; writes docs/stores.md.
	@tests/services/install postgres
	cargo bench --bench stores -- soak --seconds $(or $(SECONDS),600) $(if $(SECONDS),,--report docs/stores.md) $(ARGS)

.PHONY: bench-expiry-control
bench-expiry-control: ## The same while nothing can be dropped, SECONDS (300): fails if the tables are called flat.
	@tests/services/install postgres
	cargo bench --bench stores -- soak --control --seconds $(or $(SECONDS),300) $(ARGS)

.PHONY: main-job
main-job: ## 100,000 messages, 1,000 subjects, 100 subscribers, kill -9 in the middle; everything is checked.
	cargo build --release
	@tests/services/install k6 mainjob
	@loadtests/main-job --bin target/release/walcast --messages $(MESSAGES)

.PHONY: main-job-control
main-job-control: ## The same with a log that is lost on purpose: fails if the checker does not notice.
	cargo build --release
	@tests/services/install k6 mainjob
	@loadtests/main-job-control --bin target/release/walcast --messages $(MESSAGES)

.PHONY: format-check
format-check: ## A second decoder, written from docs/log-format.md, against `walcast log show` (RECORDS=1000000).
	cargo build --release
	@tests/format/compare --bin target/release/walcast --records $(RECORDS)

.PHONY: envoy
envoy: ## The shipped Envoy before real brokers: limits, retries, nodes that are gone, hostile clients (under a minute once built).
	@tests/services/install envoy redis ratelimit
	@tests/services/run envoy

.PHONY: demo
demo: ## Three brokers, Envoy, Postgres, Prometheus, Jaeger and a gentle load on this machine, with their addresses; Ctrl-C stops all.
	@tests/services/observe.sh --ports 3
	@began=$$(date +%s.%N); tests/services/install postgres prometheus envoy jaeger || echo "going on without it"; \
	  installed=$$(date +%s.%N); cargo build --locked --release --bin walcast && \
	  DEMO_BEGAN=$$began DEMO_INSTALLED=$$installed tests/services/observe.sh target/release/walcast 3

.PHONY: observe
observe: ## Broker, a gentle load, Envoy, Prometheus, Jaeger and (if it is installed) Grafana, with their addresses; Ctrl-C stops all.
	@tests/services/observe.sh --ports
	@tests/services/install prometheus envoy jaeger || echo "going on without it"
	cargo build --locked --release --bin walcast
	@tests/services/observe.sh target/release/walcast

.PHONY: observe-plots
observe-plots: ## Draw panels of the dashboards from two minutes of a real Prometheus into docs/observe (SECONDS=120).
	@tests/services/install postgres prometheus
	WALCAST_OBSERVE_SECONDS=$(or $(SECONDS),120) WALCAST_OBSERVE_FOLDER=$(CURDIR)/docs/observe cargo test --locked --test prometheus -- the_dashboards_can_be_drawn

.PHONY: dashboards
dashboards: ## Write grafana/dashboards again from grafana/boards, and check them.
	@tests/services/install grafana-sdk
	target/services/venv/bin/python grafana/generate.py
	target/services/venv/bin/python grafana/check.py grafana/dashboards

.PHONY: image-check
image-check: ## The container image built by a real engine: size, the README's tour in it, three brokers behind Envoy in compose, each killed in turn, k6, Prometheus, Postgres.
	@tests/services/install engine envoy ratelimit redis k6 prometheus jaeger postgres kubernetes-validate
	@tests/services/image.sh

.PHONY: k8s-check
k8s-check: ## The manifests before a real API server, with controllers and pretended machines: every overlay, start, update and drain (its programs take some eight minutes to build, once).
	@tests/services/install kustomize kubernetes-validate crds kubernetes
	@target/services/venv/bin/python tests/k8s/control_plane.py

.PHONY: k8s-node-check
k8s-node-check: ## Real pods on a real kubelet and containerd, as root: start, rolling restart and a frozen broker under load, k6 as a Job (also builds a kubelet and the image).
	@tests/services/install kustomize kubernetes-validate crds kubernetes kubelet engine envoy ratelimit redis k6
	@tests/services/node.sh

.PHONY: loadtest
loadtest: ## k6 for 30 s a script against what runs (SERVER=127.0.0.1:50051 RATE=1000 MAX_P99_MS=50 SCRIPTS="publish fetch"); JSON and pages in target/loadtests.
	@tests/services/install k6
	@loadtests/k6/run $(or $(SCRIPTS),publish fetch subscribe mixed spike)

.PHONY: loadtest-all
loadtest-all: ## Every script of k6 against one broker and three behind Envoy, on each store, 13 minutes: writes docs/load.md (ARGS="--only one-postgres" or --draw).
	@tests/services/install k6 envoy postgres cassandra
	cargo build --locked --release --bin walcast
	@loadtests/everywhere --page docs/load.md $(ARGS)

.PHONY: generate
generate: ## Write the Go code of the protos again (needed when proto/ changes).
	tests/compat-go/generate.sh

.PHONY: clean-services
clean-services: ## Remove what `make test` installed.
	rm -rf target/services
