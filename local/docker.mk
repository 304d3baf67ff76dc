# Installs a Docker daemon and builds Docker Compose, for the tests of docker-compose.yml.

VERB := test-docker
PACKAGES_FOR := docker
STEPS = $(NEEDED_PACKAGES) docker-compose
include local/steps.mk

COMPOSE := github.com/docker/compose/v5

all: $(NEEDED_PACKAGES) $(BIN)/docker-compose
.PHONY: all

$(BIN)/docker-compose: local/go/compose/go.mod local/go/compose/go.sum
	$(call step,docker-compose,building Docker Compose $(call version,compose,$(COMPOSE)) (about 2 min),\
	    $(call build-go,local/go/compose,$(COMPOSE)/cmd,\
	        -X $(COMPOSE)/internal.Version=v$(call version,compose,$(COMPOSE))))
