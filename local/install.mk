# Installs and builds what is missing, pinned, into .kinora: `make install`. Idempotent.

VERB := install
PACKAGES_FOR := install
STEPS = $(NEEDED_PACKAGES) python tusd minio
include local/steps.mk

PIP := $(MADE)/venv/bin/python -m pip --quiet --disable-pip-version-check install
PROJECTS := $(wildcard platform/pyproject.toml apps/*/pyproject.toml)

all: $(NEEDED_PACKAGES) $(MADE)/venv/installed $(BIN)/tusd $(BIN)/minio

.PHONY: all

# The projects' dependencies are in the lock file, including hatchling, which builds them.
$(MADE)/venv/installed: requirements.txt $(PROJECTS)
	$(call step,python,installing the Python environment (about 60 s),\
	    $(PYTHON) -m venv $(MADE)/venv && \
	    $(PIP) --require-hashes --requirement requirements.txt && \
	    $(PIP) --no-deps --no-build-isolation $(patsubst %/pyproject.toml,--editable ./%,$(PROJECTS)) && \
	    touch $@)

$(BIN)/tusd: local/go/tusd/go.mod local/go/tusd/go.sum
	$(call step,tusd,building tusd $(call version,tusd,github.com/tus/tusd/v2) (about 90 s),\
	    $(call build-go,local/go/tusd,github.com/tus/tusd/v2/cmd/tusd,))

$(BIN)/minio: local/go/minio/go.mod local/go/minio/go.sum
	$(call step,minio,building MinIO (about 3 min),$(call build-go,local/go/minio,github.com/minio/minio,))
