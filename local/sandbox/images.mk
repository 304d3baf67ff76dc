# Builds the sandbox's images other than the services', with references that exist in no registry:
# `make --file=local/sandbox/images.mk`. pulumi/Pulumi.sandbox.yaml replaces the published images with them.

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
# The same version as in the environments, so it keeps its own reference.
IMAGES += docker.io/tusproject/tusd:v$(call version,tusd,github.com/tus/tusd/v2)

# Image names are the folder names below local/sandbox/images.
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
# Built by local/install.mk and local/tools.mk, which `make cluster-up` runs first.
$(BIN)/% $(MADE)/venv/% $(MADE)/upstream/%:
	@echo '$@ is missing: `make cluster-up` builds it' >&2; exit 1

.SECONDEXPANSION:
$(NAMES:%=$(BUILT)/sandbox-%): $(BUILT)/sandbox-%: $(BUILT)/base $$(wildcard local/sandbox/images/%/*)
	$(call step,image-$*,building the image $(call reference,$*),\
	    $(write-pip-conf) && \
	    $(call build-image,$(call reference,$*),local/sandbox/images/$*,$(pip-secrets) \
	        --build-context argocd=argocd --build-context bin=$(BIN) --build-context venv=$(MADE)/venv \
	        --build-context upstream=$(UPSTREAM) --build-context repository=.))
