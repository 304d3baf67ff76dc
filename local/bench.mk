# Installs the npm packages of tests/bench, pinned, into .kinora/npm-bench: `make bench`. Idempotent.

VERB := bench
PACKAGES_FOR := clients
STEPS = npm-bench
include local/steps.mk

all: $(MADE)/npm-bench/installed

.PHONY: all

$(MADE)/npm-bench/installed: tests/bench/package.json tests/bench/package-lock.json
	$(call step,npm-bench,installing Apollo Server (about 10 s),\
	    mkdir -p $(@D) && cp $^ $(@D) && \
	    npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund && \
	    touch $@)
