# Builds the services' images, with the names that every environment uses: `make images`. There is one for each folder
# in apps/, and one for its worker, if it has one.

VERB := images
PACKAGES_FOR := images
APP ?=
VERSION ?=
APPS := $(or $(APP),$(patsubst apps/%/src,%,$(wildcard apps/*/src)))
WORKERS := $(foreach app,$(APPS),$(if $(wildcard apps/$(app)/src/kinora_$(app)/worker.py),$(app)-worker))
# Undefined where no goal is named.
MAKECMDGOALS ?=
STEPS = $(NEEDED_PACKAGES) base $(sort $(APPS) $(WORKERS)) $(filter demo,$(MAKECMDGOALS))
include local/steps.mk
include local/buildah.mk

REGISTRY := ghcr.io/kinora-platform/kinora
# $(call image,name,app,target of the Dockerfile,more arguments). The stamp file records the image's size and build time.
define image
$(1)-version := $$(or $$(VERSION),$$(shell sed -n 's/^version = "\(.*\)"/\1/p' $(if $(4),,apps/$(2)/)pyproject.toml))
$(1)-file := $$(BUILT)/$(1)-$$($(1)-version)
$$($(1)-file): Dockerfile requirements.txt local/images/requirements.py $$(BUILT)/base \
        $$(wildcard apps/$(2)/packages) $$(shell find platform/src apps/$(2)/src ! -path '*__pycache__*')
	$$(call step,$(1),building the image of $(1) $$($(1)-version) (up to 60 s),\
	    begun=$$$$(date +%s) && \
	    $$(write-pip-conf) && \
	    $$(call build-image,$$(REGISTRY)-$(1):$$($(1)-version),.,--format docker --timestamp 0 --build-arg APP=$(2) \
	        --target $(3) $(4) --label org.opencontainers.image.version=$$($(1)-version) \
	        $$(pip-secrets)) && \
	    size=$$$$($$(BUILDAH) images --noheading --format '{{.Size}}' $$(REGISTRY)-$(1):$$($(1)-version)) && \
	    echo "$$(REGISTRY)-$(1):$$($(1)-version): $$$$size$$(,) built in $$$$(($$$$(date +%s) - begun)) s" >$$@)
endef
$(foreach app,$(APPS),$(eval $(call image,$(app),$(app),service,)))
$(foreach worker,$(WORKERS),$(eval $(call image,$(worker),$(worker:-worker=),worker,)))
# Only docker-compose.yml runs it, and it has the version of the repository.
$(eval $(call image,demo,video,demo,--build-arg DEMO=yes))

FILES := $(foreach name,$(APPS) $(WORKERS),$($(name)-file))
.PHONY: all demo
all: $(FILES)
	@cat $(FILES)
demo: $(demo-file)
