# What local/install.mk, local/tools.mk and local/images.mk share. Each of them names its VERB and, in order, its STEPS.
# A step writes to a log, makes its result beside its place and moves it there last, so that an interruption leaves
# nothing that looks finished.

MADE := .kinora
BIN := $(MADE)/bin
BUILD := $(MADE)/build
LOGS := $(MADE)/logs

# $(call step,name,what and for how long,commands)
define step
	@mkdir -p $(BIN) $(BUILD) $(LOGS)
	@echo '$(place) $(2)'
	@{ $(3); } >$(LOGS)/install-$(1).log 2>&1 || { \
	    tail -n 20 $(LOGS)/install-$(1).log; \
	    echo '$(place) failed; all it said is in $(LOGS)/install-$(1).log.' \
	        'Mend the cause and run `make $(VERB)` again.'; \
	    exit 1; }
	@echo '$(place) done'
endef
place = [$(shell printf '%s\n' $(STEPS) | grep -nx $(1) | cut -d: -f1)/$(words $(STEPS))]

# $(call install-packages,Debian packages)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
install-packages = $(SUDO) apt-get update && \
    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(1)

# $(call version,folder of local/go,module): the version that its go.mod pins, without the v.
version = $(shell sed -nE 's|^(require)?\s*$(2) v(\S+).*|\2|p' local/go/$(1)/go.mod)

# Each Go tool is built from a module of its own, so that the dependencies of two tools never meet.
# $(call build-go,folder,package,linker flags) makes the target.
build-go = (cd $(1) && go build -trimpath -ldflags '-s -w $(3)' -o $(abspath $(BUILD)/$(@F)) $(2)) && \
    mv $(BUILD)/$(@F) $@

# $(call find-module,folder of local/go,module) downloads what its go.mod pins, checked by its go.sum; $$from is where.
find-module = from=$$(cd local/go/$(1) && go mod download $(2) && go list -m -f '{{.Dir}}' $(2))

# $(call copy-module,folder of local/go,module,commands that copy from $$from to $$to) makes the target, a folder.
# What Go keeps of a module is read-only; the copy is not.
copy-module = $(find-module) && to=$(BUILD)/$(@F) && rm -rf $$to && mkdir -p $$to $(@D) && $(3) && \
    chmod -R u+w $$to && rm -rf $@ && mv $$to $@
