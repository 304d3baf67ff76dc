# Shared by the makefiles in local/. Before including this file, each of them sets
#   VERB          the target of the Makefile that error messages tell people to run again
#   PACKAGES_FOR  the table of local/doctor.py with the Debian packages that it needs
#   STEPS         its targets, in order
# Make expands prerequisites while it reads a rule, so their variables must be set above the rule, with `:=`. A variable
# that is set later is silently empty; local/tests/test_makefiles.py detects that.

# Not the rule for the packages, which is the first in the file.
.DEFAULT_GOAL := all

MADE := .kinora
BIN := $(MADE)/bin
BUILD := $(MADE)/build
LOGS := $(MADE)/logs

PYTHON ?= python3
# The missing Debian packages, and a prerequisite for everything that needs them. It is empty if none is missing: the
# target is phony, and would always be out of date.
PACKAGES := $(shell $(PYTHON) local/doctor.py --missing-packages $(PACKAGES_FOR))
NEEDED_PACKAGES := $(if $(PACKAGES),packages)

# A step writes to a log, builds its result in a temporary place and finally moves it into place, so that an
# interruption leaves no partial result. $(call step,name,description with duration,commands)
define step
	@mkdir -p $(BIN) $(BUILD) $(LOGS)
	@echo '$(place) $(2)'
	@{ $(3); } >$(LOGS)/install-$(1).log 2>&1 || { \
	    tail -n 20 $(LOGS)/install-$(1).log; \
	    echo '$(place) failed; its full output is in $(LOGS)/install-$(1).log.' \
	        'Fix the cause and run `make $(VERB)` again.'; \
	    exit 1; }
	@echo '$(place) done'
endef
place = [$(shell printf '%s\n' $(STEPS) | grep -nx $(1) | cut -d: -f1)/$(words $(STEPS))]

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
.PHONY: packages
packages:
	$(call step,packages,installing the Debian packages $(PACKAGES) (about 60 s),\
	    $(SUDO) apt-get update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(PACKAGES))

# $(call version,folder of local/go,module): the version that its go.mod pins, without the v.
version = $(shell sed -nE 's|^(require)?\s*$(2) v(\S+).*|\2|p' local/go/$(1)/go.mod)

# Each Go tool has its own module, so that the dependencies of two tools never conflict.
# $(call build-go,folder,package,linker flags) builds the target; the flags may be empty.
build-go = (cd $(1) && go build -trimpath -ldflags '-s -w $(3)' -o $(abspath $(BUILD)/$(@F)) $(2)) && \
    mv $(BUILD)/$(@F) $@

# $(call find-module,folder of local/go,module) downloads the version that go.mod pins, verified by go.sum, to $$from.
find-module = from=$$(cd local/go/$(1) && go mod download $(2) && go list -m -f '{{.Dir}}' $(2))

# $(call copy-module,folder of local/go,module,commands that copy from $$from to $$to) creates the target, a folder.
# Go's module cache is read-only; the copy is writable.
copy-module = $(find-module) && to=$(BUILD)/$(@F) && rm -rf $$to && mkdir -p $$to $(@D) && $(3) && \
    chmod -R u+w $$to && rm -rf $@ && mv $$to $@
