# What the makefiles in local/ share. Before it includes this one, each of them sets
#   VERB          the verb of the Makefile that a message tells people to run again
#   PACKAGES_FOR  the table of local/doctor.py with the Debian packages that it needs
#   STEPS         what it does, in order
# Make expands prerequisites while it reads a rule, so whatever stands in them is set above the rule, with `:=`. A variable
# that is set too late is empty there, without a word; local/tests/test_makefiles.py finds it.

# Not the rule for the packages, which comes first.
.DEFAULT_GOAL := all

MADE := .kinora
BIN := $(MADE)/bin
BUILD := $(MADE)/build
LOGS := $(MADE)/logs

PYTHON ?= python3
# The Debian packages that are missing, and a prerequisite for whatever needs them. It is empty where none is missing:
# the target is phony, and would be out of date every time that somebody asks.
PACKAGES := $(shell $(PYTHON) local/doctor.py --missing-packages $(PACKAGES_FOR))
NEEDED_PACKAGES := $(if $(PACKAGES),packages)

# A step writes to a log, makes its result beside its place and moves it there last, so that an interruption leaves
# nothing that looks finished.
# $(call step,name,what and for how long,commands)
define step
	@mkdir -p $(BIN) $(BUILD) $(LOGS)
	@echo '$(place) $(2)'
	@{ $(3); } >$(LOGS)/install-$(1).log 2>&1 || { \
	    tail -n 20 $(LOGS)/install-$(1).log; \
	    echo '$(place) failed; its whole output is in $(LOGS)/install-$(1).log.' \
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

# Each Go tool is built from a module of its own, so that the dependencies of two tools never meet.
# $(call build-go,folder,package,linker flags) makes the target; the flags may be empty.
build-go = (cd $(1) && go build -trimpath -ldflags '-s -w $(3)' -o $(abspath $(BUILD)/$(@F)) $(2)) && \
    mv $(BUILD)/$(@F) $@

# $(call find-module,folder of local/go,module) downloads what its go.mod pins, checked by its go.sum; $$from is where.
find-module = from=$$(cd local/go/$(1) && go mod download $(2) && go list -m -f '{{.Dir}}' $(2))

# $(call copy-module,folder of local/go,module,commands that copy from $$from to $$to) makes the target, a folder.
# What Go keeps of a module is read-only; the copy is not.
copy-module = $(find-module) && to=$(BUILD)/$(@F) && rm -rf $$to && mkdir -p $$to $(@D) && $(3) && \
    chmod -R u+w $$to && rm -rf $@ && mv $$to $@
