# Installs the npm packages of tests/clients, pinned, into .kinora/npm: `make clients`. Idempotent.

VERB := clients
PACKAGES_FOR := clients
STEPS = npm
include local/steps.mk

all: $(MADE)/npm/installed

.PHONY: all

$(MADE)/npm/installed: tests/clients/package.json tests/clients/package-lock.json
	$(call step,npm,installing the GraphQL clients of the tests (about 5 s),\
	    mkdir -p $(@D) && cp $^ $(@D) && \
	    npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund && \
	    touch $@)
