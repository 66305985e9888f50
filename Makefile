# What can be made here. `make test` is everything that must hold before a change
# lands. It needs Go, git, a C compiler (for the race detector), PostgreSQL, Redis and a
# Kafka broker, which deploy/engines/install fetches if they are missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# SQLite is C that was made into Go. The race detector looks at what we hand to it and
# at who calls it, and not inside, where it would take ten times as long.
RACE := -race -gcflags=modernc.org/sqlite/lib=-race=false
# Simulation and crash tests run the same code in one goroutine or another process,
# the store suites spend their time inside SQLite, and what reads our sources has no
# goroutines: they run without the race detector.
NO_RACE := /bench/|/sqlstore$$|/archtest$$
# What decides about money runs in both ways: with all cases of its property tests
# without the detector, and with RACE_CHECKS of them under it.
BOTH := /(core|prepay|accounting)$$
# The whole app runs under the detector, but for the tests that take long: they say so
# themselves, and run without it.
LONG = $(shell awk '/^func Test/ { name = $$2; sub(/[()].*/, "", name) } /^\tlong\(t\)/ { print name }' cmd/app/*_test.go | paste -sd '|')
RACE_CHECKS ?= 20
# How many packages run at once under the detector: they wait as much as they work.
PACKAGES ?= $(shell n=$$(nproc); echo $$((n > 3 ? n : 3)))
# How long each fuzz test runs: make fuzz FUZZTIME=5m
FUZZTIME ?= 10s
SEEDS ?= 1000
FIRST ?= 1
N ?= 300
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# A module of its own: a broker that lies on demand, for tests alone.
KFAKE := internal/bus/kafka/kfaketest

.PHONY: test engines lint vet staticcheck race norace long kfake demo sim torture chaos planted fuzz

# What waits most of its time, for leases and engines, goes beside what does not.
test: engines lint race
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target norace long kfake

# The engines that tests start, if they are missing; they would fetch them
# themselves, on their own time.
engines:
	deploy/engines/install postgres redis kafka

lint: vet staticcheck

vet:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt-ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	cd $(KFAKE) && go vet ./...

staticcheck:
	go run $(STATICCHECK) ./...

race:
	MAY_SKIP='app\.($(LONG))' .ci/gotest race -p $(PACKAGES) $(RACE) $$(go list ./... | grep -vE '$(NO_RACE)|$(BOTH)')
	RAPID_CHECKS=$(RACE_CHECKS) .ci/gotest 'race, fewer cases' $(RACE) $$(go list ./... | grep -E '$(BOTH)')

norace:
	.ci/gotest plain $$(go list ./... | grep -E '$(NO_RACE)|$(BOTH)')

long:
	@test -n '$(LONG)'
	.ci/gotest 'plain, long' -run '^($(LONG))$$' ./cmd/app

kfake:
	cd $(KFAKE) && $(CURDIR)/.ci/gotest 'race, kfake' $(RACE) ./...

# The first five minutes.
demo:
	go run ./cmd/tallystick demo

# More seeds: make sim SEEDS=10000 FIRST=201
sim:
	go test ./bench/sim -count=1 -timeout 0 -run TestSeeds -seeds $(SEEDS) -first $(FIRST)

# Kill -9, N times in each profile, at named and at random points.
torture:
	go run ./bench crash -n $(N)
	go run ./bench crash -cluster -n $(N)

# A cluster under load, while engines die and processes stand still.
chaos:
	go run ./bench chaos -report chaos.html

# Every planted bug must be caught.
planted:
	go run ./bench planted

# Every parser of bytes from outside, for a short time each.
fuzz:
	@grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do \
	  for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$$file"); do \
	    echo "$$name in $$(dirname "$$file")"; \
	    go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	  done; \
	done
