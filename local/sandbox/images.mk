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
IMAGES += localhost/kinora-sandbox/traefik:3
IMAGES += localhost/kinora-sandbox/prometheus:3.8
IMAGES += localhost/kinora-sandbox/alertmanager:0.28
IMAGES += localhost/kinora-sandbox/argocd:3.5.7
IMAGES += localhost/kinora-sandbox/git:2
IMAGES += localhost/kinora-sandbox/pause:1
# The same versions as in the environments, so they keep their own references.
IMAGES += docker.io/tusproject/tusd:v$(call version,tusd,github.com/tus/tusd/v2)
IMAGES += ghcr.io/kinora-platform/kinora-minio:$(call version,minio,github.com/minio/minio)

# Image names are the folder names below local/sandbox/images. MinIO's is not a replacement; it is beside its go.mod.
NAMES := $(foreach image,$(IMAGES),$(notdir $(firstword $(subst :, ,$(image)))))
folder = $(if $(filter kinora-minio,$(1)),local/go/minio,local/sandbox/images/$(1))
reference = $(strip $(foreach image,$(IMAGES),$(if $(filter $(1),$(notdir $(firstword $(subst :, ,$(image))))),$(image))))

all: $(NAMES:%=$(BUILT)/sandbox-%)
# Those that docker-compose.yml runs without a profile, for its tests.
compose: $(addprefix $(BUILT)/sandbox-,postgres mongo redis rabbitmq kinora-minio traefik tusd)
references: ; @printf '%s\n' $(IMAGES)
.PHONY: all compose references

$(BUILT)/sandbox-mongo: requirements.txt local/images/requirements.py $(wildcard local/mongo/mongo*)
$(BUILT)/sandbox-kinora-minio: $(BIN)/minio $(BIN)/mc
$(BUILT)/sandbox-prometheus: $(BIN)/prometheus-kubernetes
$(BUILT)/sandbox-tusd: $(BIN)/tusd
$(BUILT)/sandbox-traefik: $(MADE)/venv/installed
$(BUILT)/sandbox-git: argocd/pre-receive
UPSTREAM := $(MADE)/upstream/argo-cd-$(call version,argo-cd,github.com/argoproj/argo-cd/v3)
$(BUILT)/sandbox-argocd: $(BIN)/argocd $(BIN)/helm $(UPSTREAM)
# Built by local/install.mk and local/tools.mk, which `make cluster-up` runs first.
$(BIN)/% $(MADE)/venv/% $(MADE)/upstream/%:
	@echo '$@ is missing: `make cluster-up` builds it' >&2; exit 1

.SECONDEXPANSION:
$(NAMES:%=$(BUILT)/sandbox-%): $(BUILT)/sandbox-%: $(BUILT)/base $$(wildcard $$(call folder,$$*)/*)
	$(call step,image-$*,building the image $(call reference,$*),\
	    $(write-pip-conf) && \
	    $(call build-image,$(call reference,$*),$(call folder,$*),$(pip-secrets) \
	        --build-context argocd=argocd --build-context bin=$(BIN) --build-context venv=$(MADE)/venv \
	        --build-context upstream=$(UPSTREAM) --build-context repository=.))
