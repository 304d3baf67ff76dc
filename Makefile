# The repository's commands. Most are implemented in local/ (how the platform runs on one machine).
PYTHON ?= python3
VENV := .kinora/venv/bin
CTL := $(VENV)/python local/ctl.py
CLUSTER := PYTHONPATH=local $(VENV)/python local/sandbox/cluster.py
# `make up S="redis auth"`, `make logs S=video`: only these processes. `stores` names all stores.
S ?=
# `make plan ENV=prod`: the environments are the files pulumi/Pulumi.<name>.yaml.
ENV ?= dev
# Further parameters, described by `make help`; empty by default.
AGAIN ?=
ALL ?=
APP ?=
B ?=
FILE ?=
FROM ?=
NAME ?=
SECRET ?=
SEED ?=
SVC ?=
TO ?=
UNCOMMITTED ?=
.DEFAULT_GOAL := help
# `make test-all`: every case, in random order; SEED repeats the order of a run, which prints its seed. AGAIN=1: only the
# tests that failed in the last run.
WHOLE := $(if $(ALL),--whole -p randomly $(if $(SEED),--randomly-seed=$(SEED))) \
    $(if $(AGAIN),--last-failed --last-failed-no-failures=none)
ENVIRONMENT = cd pulumi && PATH="$(CURDIR)/.kinora/bin:$$PATH" ../.kinora/pulumi/bin/python -m kinora_environment
.PHONY: help new-service promote pulumi demo up down restart status logs doctor install tools clients plan render diff rotate test \
    test-all test-native test-cluster pytest-cluster test-docker test-pulumi lint format types generate lock bench images clean \
    doctor-cluster doctor-docker cluster-build cluster-up cluster-demo cluster-push cluster-status cluster-down

##@ Use
demo: doctor install ## Upload a video (FILE=...) and watch it become playable
	@$(CTL) run --keep python local/demo.py $(if $(FILE),"$(FILE)")
up: doctor install ## Start the platform (S=...: only these), wait until it is healthy, print the addresses
	@$(CTL) up $(S)
down: ## Stop all processes
	@if [ -x $(VENV)/python ]; then $(CTL) down; fi
restart: ## Restart, to run changed code (S=...: only these)
	@$(CTL) restart $(S)
status: ## Show each process and its health
	@$(CTL) status
logs: ## Follow the logs (S=...: only these)
	@$(CTL) logs $(S)

##@ Machine
doctor: ## Check that this machine can run the platform (S=docker: with Docker Compose; S=tools: build the tools)
	@$(PYTHON) local/doctor.py $(S)
# flock: a second make, such as a parallel phase of `make test`, waits instead of building the same file.
install: ## Install or build what is missing, into .kinora
	@flock local/install.mk $(MAKE) --silent --jobs=2 --file=local/install.mk PYTHON=$(PYTHON)
tools: ## Build the tools for work on clusters, into .kinora: kubectl, helm, istioctl, an API server
	@$(PYTHON) local/doctor.py tools
	@flock local/tools.mk $(MAKE) --silent --jobs=2 --file=local/tools.mk PYTHON=$(PYTHON)
clients: ## Install the GraphQL clients of the tests (npm), into .kinora
	@$(PYTHON) local/doctor.py clients
	@flock local/clients.mk $(MAKE) --silent --file=local/clients.mk PYTHON=$(PYTHON)
pulumi: ## Build Pulumi and its Kubernetes provider (15 min), into .kinora, so that the tests run a real `pulumi up`
	@$(PYTHON) local/doctor.py tools
	@flock local/tools.mk $(MAKE) --silent --file=local/tools.mk PYTHON=$(PYTHON) cli
images: ## Build the services' images without Docker (APP=..., VERSION=...), into .kinora/containers
	@$(PYTHON) local/doctor.py images
	@flock local/images.mk $(MAKE) --silent --file=local/images.mk PYTHON=$(PYTHON) APP=$(APP)
clean: down cluster-down ## Remove everything that was created here, data included
	rm -rf .kinora .mypy_cache .ruff_cache .pytest_cache .hypothesis

##@ Sandbox
doctor-cluster:
	@$(PYTHON) local/doctor.py cluster
cluster-build: doctor-cluster install tools
	@flock local/tools.mk $(MAKE) --silent --jobs=2 --file=local/tools.mk PYTHON=$(PYTHON) sandbox
	@flock local/images.mk $(MAKE) --silent --file=local/images.mk PYTHON=$(PYTHON)
	@flock local/images.mk $(MAKE) --silent --file=local/sandbox/images.mk PYTHON=$(PYTHON)
cluster-up: cluster-build ## Run the whole platform on a real Kubernetes on this machine, deployed by Argo CD
	@$(CLUSTER) up $(if $(UNCOMMITTED),--uncommitted)
cluster-demo: ## Upload a video to it (FILE=...) and watch it become playable
	@KINORA_GATEWAY="$$($(CLUSTER) url)" no_proxy=10.231.0.2 $(VENV)/python local/demo.py $(if $(FILE),"$(FILE)")
cluster-push: ## Push your commits to its git server; Argo CD rolls them out
	@flock local/images.mk $(MAKE) --silent --file=local/images.mk PYTHON=$(PYTHON)
	@$(CLUSTER) push $(if $(UNCOMMITTED),--uncommitted)
cluster-status: ## Show its applications and what is not ready
	@$(CLUSTER) status
cluster-down: ## Stop it and remove everything
	@if [ -x $(VENV)/python ]; then $(CLUSTER) down; fi

##@ Environments
plan: tools ## Show what an environment (ENV=dev) contains and requires
	@$(ENVIRONMENT).plan $(ENV)
render: tools ## Write every object of an environment (ENV=dev) as YAML
	@$(ENVIRONMENT).render $(ENV) ../.kinora/rendered/$(ENV)
diff: tools ## Show the effect of a change (FROM=HEAD TO=working tree) on each environment, or on one (ENV=)
	@$(ENVIRONMENT).diff $(if $(filter-out file,$(origin ENV)),$(ENV)) $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO))
rotate: tools ## Rotate a secret (SECRET=auth-postgres) of an environment (ENV=dev)
	@$(ENVIRONMENT).rotate $(ENV) $(SECRET)

##@ Deploys
new-service: install ## Create a service (NAME=likes) that can be run, tested and rolled out
	@$(VENV)/python local/new_service.py "$(NAME)"
promote: install ## Promote a version (SVC=auth FROM=dev TO=staging): changes one file, pushes nothing
	@$(VENV)/python local/promote.py "$(SVC)" "$(FROM)" "$(TO)"

##@ Work
test: doctor ## All checks and tests, in phases (local/checks.py); combinatorial tests are sampled
	@$(PYTHON) local/checks.py
test-all: doctor ## The same in random order (SEED=...), without sampling
	@$(PYTHON) local/checks.py ALL=1 $(if $(SEED),SEED=$(SEED))
test-native: doctor install tools clients ## The native tests, against the running platform
	@$(if $(ALL),KINORA_TEST_EXAMPLES=400) $(CTL) run python -m pytest --ignore=tests/cluster --ignore=tests/docker $(WHOLE)
# Not $(MAKE): make runs such lines even in a dry run.
test-cluster: install tools ## The sandbox's tests; starts the sandbox unless it is running
	@if $(PYTHON) local/doctor.py cluster >/dev/null; then \
	    [ -d .kinora/sandbox ] || trap '$(CLUSTER) down' EXIT; trap 'exit 130' INT TERM; \
	    make --no-print-directory cluster-up || exit; \
	fi; \
	make --no-print-directory pytest-cluster
pytest-cluster:
	@PATH="$(CURDIR)/$(VENV):$(CURDIR)/.kinora/bin:$$PATH" $(VENV)/python -m pytest tests/cluster $(WHOLE)
doctor-docker:
	@$(PYTHON) local/doctor.py test-docker
test-docker: doctor-docker install ## The tests of docker-compose.yml, on a Docker daemon of their own
	@flock local/docker.mk $(MAKE) --silent --file=local/docker.mk PYTHON=$(PYTHON)
	@flock local/tools.mk $(MAKE) --silent --file=local/tools.mk PYTHON=$(PYTHON) .kinora/bin/mc
	@flock local/images.mk $(MAKE) --silent --file=local/images.mk PYTHON=$(PYTHON) all demo
	@flock local/images.mk $(MAKE) --silent --file=local/sandbox/images.mk PYTHON=$(PYTHON) compose
	@PATH="$(CURDIR)/$(VENV):$$PATH" tests/docker/enter $(VENV)/python -m pytest tests/docker $(WHOLE)
test-pulumi: install tools ## The environments' tests, against a real API server
	@cd pulumi && PATH="$(CURDIR)/.kinora/bin:$$PATH" ../.kinora/pulumi/bin/python -m pytest $(WHOLE)
lint: install ## Check with ruff
	@$(VENV)/ruff check
	@$(VENV)/ruff format --check
format: install ## Format, and fix what ruff can
	@$(VENV)/ruff format
	@$(VENV)/ruff check --fix
TESTS_PATH := MYPYPATH=local:local/images:local/sandbox:tests/e2e:tests
types: install ## Check the types
	@flock local/tools.mk $(MAKE) --silent --file=local/tools.mk PYTHON=$(PYTHON) python
	@$(VENV)/mypy platform/src apps/*/src
	@$(VENV)/mypy local
	@# tests/cluster without its conftest.py, which would pass for that of tests/e2e, from which it imports.
	@for tests in "tests/*.py" "tests/cluster/[!c]*.py" tests/bench tests/docker tests/e2e tests/gateway local/tests platform/tests apps/*/tests; do \
	    $(TESTS_PATH) $(VENV)/mypy $$tests || exit 1; done
	@cd pulumi && MYPYPATH=../local ../.kinora/pulumi/bin/mypy kinora_environment \
	    ../local/sandbox/objects.py ../local/compose/configure.py
generate: install ## Generate gRPC code, event schemas, the GraphQL schema, and the OpenAPI document
	@PATH="$(CURDIR)/$(VENV):$$PATH" $(VENV)/python platform/generate.py
	@$(VENV)/python -m kinora_graphql.schema >apps/graphql/schema.graphql
	@$(VENV)/python -m kinora_graphql.documents
	@$(VENV)/python local/openapi.py >platform/src/kinora/openapi.json
lock: install ## Lock the dependencies in requirements.txt, with hashes
	@$(VENV)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-emit-package kinora-kit --group local --group test platform/pyproject.toml apps/*/pyproject.toml \
	    --output-file requirements.txt
	@$(VENV)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --group pulumi/pyproject.toml:test pulumi/pyproject.toml --output-file pulumi/requirements.txt
bench: doctor install ## Measure, compared with the machine's limits (B=queries: only this file of tests/bench)
	@$(PYTHON) local/doctor.py clients
	@flock local/bench.mk $(MAKE) --silent --file=local/bench.mk PYTHON=$(PYTHON)
	@$(CTL) run python tests/bench/run.py $(B)

help: ## List the commands
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
