# Builds the images of all that the sandbox's cluster runs beside the services, under references that no registry has:
# `make --file=local/sandbox/images.mk`. pulumi/Pulumi.sandbox.yaml puts them in the place of the published ones.

VERB := cluster-up
PACKAGES_FOR := images
STEPS = $(NEEDED_PACKAGES) base $(NAMES:%=image-%)
include local/steps.mk
include local/buildah.mk

IMAGES := localhost/kinora-sandbox/postgres:17
IMAGES += localhost/kinora-sandbox/mongo:secantusdb
IMAGES += localhost/kinora-sandbox/redis:8
IMAGES += localhost/kinora-sandbox/rabbitmq:4
IMAGES += localhost/kinora-sandbox/minio:2026
IMAGES += localhost/kinora-sandbox/mc:2025
IMAGES += localhost/kinora-sandbox/traefik:3
IMAGES += localhost/kinora-sandbox/prometheus:3.8
IMAGES += localhost/kinora-sandbox/alertmanager:0.28
IMAGES += localhost/kinora-sandbox/argocd:3.5.7
IMAGES += localhost/kinora-sandbox/git:2
IMAGES += localhost/kinora-sandbox/pause:1
# Of the very version that the environments run, so under its own reference.
IMAGES += docker.io/tusproject/tusd:v$(call version,tusd,github.com/tus/tusd/v2)

# An image's folder below local/sandbox/images has its name.
NAMES := $(foreach image,$(IMAGES),$(notdir $(firstword $(subst :, ,$(image)))))
reference = $(filter localhost/kinora-sandbox/$(1):% docker.io/tusproject/$(1):%,$(IMAGES))

all: $(NAMES:%=$(BUILT)/sandbox-%)
references: ; @printf '%s\n' $(IMAGES)
.PHONY: all references

$(BUILT)/sandbox-mongo: requirements.txt local/images/requirements.py $(wildcard local/mongo/mongo*)
$(BUILT)/sandbox-minio: $(BIN)/minio
$(BUILT)/sandbox-prometheus: $(BIN)/prometheus-kubernetes
$(BUILT)/sandbox-mc: $(BIN)/mc
$(BUILT)/sandbox-tusd: $(BIN)/tusd
$(BUILT)/sandbox-traefik: $(MADE)/venv/installed
$(BUILT)/sandbox-git: argocd/pre-receive
UPSTREAM := $(MADE)/upstream/argo-cd-$(call version,argo-cd,github.com/argoproj/argo-cd/v3)
$(BUILT)/sandbox-argocd: $(BIN)/argocd $(BIN)/helm $(UPSTREAM)
# local/install.mk and local/tools.mk make these, and `make cluster-up` calls them first.
$(BIN)/% $(MADE)/venv/% $(MADE)/upstream/%:
	@echo '$@ is missing: `make cluster-up` makes it' >&2; exit 1

.SECONDEXPANSION:
$(NAMES:%=$(BUILT)/sandbox-%): $(BUILT)/sandbox-%: $(BUILT)/base $$(wildcard local/sandbox/images/%/*)
	$(call step,image-$*,building the image $(call reference,$*),\
	    $(write-pip-conf) && \
	    $(call build-image,$(call reference,$*),local/sandbox/images/$*,$(pip-secrets) \
	        --build-context argocd=argocd --build-context bin=$(BIN) --build-context venv=$(MADE)/venv \
	        --build-context upstream=$(UPSTREAM) --build-context repository=.))
