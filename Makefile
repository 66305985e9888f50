# What can be made here. `make test` is everything that must hold before a change
# lands; it needs Go, git and a C compiler (for the race detector), nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

# Packages whose tests run under the race detector. Simulation and crash tests run
# the same code in one goroutine or another process, and the store suites spend
# their time inside SQLite: they run without it.
NO_RACE := /bench/|/sqlstore$$|/prepay$$|/accounting$$|/core$$|/cmd/tallystick$$
SEEDS ?= 1000
FIRST ?= 1
N ?= 300
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: test lint vet staticcheck race norace demo sim torture planted fuzz

test: lint race norace

lint: vet staticcheck

vet:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt-ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...

staticcheck:
	go run $(STATICCHECK) ./...

race:
	.ci/gotest race -race $$(go list ./... | grep -vE '$(NO_RACE)')

norace:
	.ci/gotest plain $$(go list ./... | grep -E '$(NO_RACE)')

# The first five minutes.
demo:
	go run ./cmd/tallystick demo

# More seeds: make sim SEEDS=10000 FIRST=201
sim:
	go test ./bench/sim -count=1 -timeout 0 -run TestSeeds -seeds $(SEEDS) -first $(FIRST)

# Kill -9, N times, at named and at random points.
torture:
	go run ./bench crash -n $(N)

# Every planted bug must be caught.
planted:
	go run ./bench planted
