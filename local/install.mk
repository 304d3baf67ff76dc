# Installs and builds what is missing, pinned, into .kinora: `make install`. Nothing missing, nothing done.
# A step writes to a log, makes its result beside its place and moves it there last, so that an interruption leaves
# nothing that looks finished.

MADE := .kinora
BIN := $(MADE)/bin
LOGS := $(MADE)/logs
PYTHON ?= python3
PIP := $(MADE)/venv/bin/python -m pip --quiet --disable-pip-version-check install
PROJECTS := $(wildcard platform/pyproject.toml apps/*/pyproject.toml)
PACKAGES := $(shell $(PYTHON) local/doctor.py --missing-packages)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# $(call step,number,what and for how long,log,commands)
define step
	@mkdir -p $(BIN) $(MADE)/build $(LOGS)
	@echo '[$(1)/5] $(2)'
	@{ $(4); } >$(LOGS)/install-$(3).log 2>&1 || { \
	    tail -n 20 $(LOGS)/install-$(3).log; \
	    echo '[$(1)/5] failed; all it said is in $(LOGS)/install-$(3).log. Mend the cause and run `make install` again.'; \
	    exit 1; }
	@echo '[$(1)/5] done'
endef

all: $(if $(PACKAGES),packages) $(MADE)/venv/installed $(BIN)/mongo.jar $(BIN)/tusd $(BIN)/minio
	@:

.PHONY: all packages
packages:
	$(call step,1,installing the Debian packages $(PACKAGES) (about 60 s),packages,\
	    $(SUDO) apt-get update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $(PACKAGES))

# The projects' own dependencies are in the lock, and so is hatchling, which builds them.
$(MADE)/venv/installed: requirements.txt $(PROJECTS)
	$(call step,2,installing the Python environment (about 60 s),python,\
	    $(PYTHON) -m venv $(MADE)/venv && \
	    $(PIP) --require-hashes --requirement requirements.txt && \
	    $(PIP) --no-deps --no-build-isolation $(patsubst %/pyproject.toml,--editable ./%,$(PROJECTS)) && \
	    touch $@)

$(BIN)/mongo.jar: local/mongo/pom.xml $(wildcard local/mongo/src/main/java/*.java)
	$(call step,3,building the stand-in for MongoDB (about 15 s),mongo,\
	    mvn --quiet --batch-mode --strict-checksums --file local/mongo/pom.xml \
	        -Dkinora.build=$(abspath $(MADE)/build/mongo) package && \
	    mv $(MADE)/build/mongo/mongo.jar $@)

# Each Go tool is built from a module of its own, so that the dependencies of two tools never meet.
$(BIN)/tusd: local/go/tusd/go.mod local/go/tusd/go.sum
	$(call step,4,building tusd 2.9.1 (about 90 s),tusd,$(call build-go,tusd,github.com/tus/tusd/v2/cmd/tusd))

$(BIN)/minio: local/go/minio/go.mod local/go/minio/go.sum
	$(call step,5,building MinIO (about 3 min),minio,$(call build-go,minio,github.com/minio/minio))

build-go = (cd local/go/$(1) && go build -trimpath -o $(abspath $(MADE)/build/$(1)) $(2)) && mv $(MADE)/build/$(1) $(BIN)/$(1)
