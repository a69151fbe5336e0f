# Every command a person types. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help init up down credentials rotate logs ps scale-workers demo mail test test-unit test-stack lint lock images chaos bench upstream shell manage superuser dev

COMPOSE := docker compose
VENV := .venv
PYTHON ?= python3

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

init: ## copy .env.example to .env, to change what you want to change; nothing in it is needed
	@test -e .env && echo ".env is there already." || { cp .env.example .env; echo "Made .env; every line in it is optional."; }

up: ## build the image, start the stack, wait until it is healthy, print the addresses
	@scripts/preflight
	@scripts/up

down: ## stop the stack; its data stay on their volumes
	@scripts/preflight engine
	$(COMPOSE) down

credentials: ## print the logins
	@scripts/preflight engine
	@$(COMPOSE) run --rm --no-deps -T secrets /services/secrets/start show

rotate: ## change a secret everywhere: make rotate SECRET=POSTGRES_PASSWORD
	@scripts/preflight engine
	@scripts/rotate "$(SECRET)"

logs: ## follow the logs: make logs [S=worker]
	@scripts/preflight engine
	$(COMPOSE) logs --follow --tail 100 $(S)

ps: ## what runs, and how it is
	@scripts/preflight engine
	@$(COMPOSE) ps --all --format 'table {{.Service}}\t{{.Name}}\t{{.Status}}\t{{.Ports}}'

scale-workers: ## run N workers: make scale-workers N=4 [QUEUE=heavy_tasks]
	@scripts/preflight engine
	@scripts/scale-workers "$(N)" "$(QUEUE)"

demo: $(VENV)/demo ## the stack without Docker, on an embedded Postgres and Redis
	@$(VENV)/bin/python -m demo

mail: ## show the mailbox that mail goes to while no mail server is set
	@if $(COMPOSE) ps --status running --services 2>/dev/null | grep -qx worker; \
	then $(COMPOSE) exec -T worker sh -c 'cat "$$STATE_DIR"/mail/* 2>/dev/null || echo "No mail yet."'; \
	else cat .demo/state/mail/* 2>/dev/null || echo "No mail yet."; fi

test: $(VENV)/dev ## every test this machine can run
	@scripts/test

test-unit: $(VENV)/dev ## the tests that need no Docker, on an embedded Postgres and Redis
	$(VENV)/bin/pytest app tests/unit

test-stack: $(VENV)/dev ## the tests of the whole stack, on a Docker engine
	@scripts/preflight engine
	$(VENV)/bin/pytest tests/stack tests/chaos tests/browser

chaos: $(VENV)/dev ## kill, freeze, empty and cut off the stack's parts under load; ours beside plain Celery (20 minutes)
	@scripts/preflight engine
	$(VENV)/bin/python -m tests.chaos $(ARGS)

bench: $(VENV)/dev ## ours beside plain Celery and other task queues: make bench [ARGS="--rows drain --columns celeriac huey"]
	@$(VENV)/bin/python -m bench.compare $(ARGS)

upstream: $(VENV)/dev ## Celery's own integration tests on our transport and pool; its smoke tests: make upstream ARGS=smoke (20 minutes each)
	@$(VENV)/bin/python -m tests.upstream $(ARGS)

lint: $(VENV)/dev ## every linter
	@scripts/lint

lock: $(VENV)/dev ## resolve app/pyproject.toml into the three hashed locks
	@scripts/lock

images: ## build the base images from Debian packages, for machines that reach no registry
	@scripts/preflight engine
	@env $$(grep -Es '^(DEBIAN(_SECURITY)?_MIRROR|[A-Z]+_IMAGE)=' .env | xargs) images/build

shell: ## a shell in the app's container
	@scripts/preflight engine
	$(COMPOSE) exec worker bash

manage: ## manage.py in the app's container: make manage C="showmigrations"
	@scripts/preflight engine
	@# As the user on the host, so that what makemigrations writes in `make dev` is theirs.
	@$(COMPOSE) exec --user "$$(id -u):$$(id -g)" worker python manage.py $(C)

superuser: ## create another admin
	@scripts/preflight engine
	$(COMPOSE) exec worker python manage.py createsuperuser

dev: ## the stack for writing code: source mounted, every process reloads
	@scripts/preflight
	$(COMPOSE) -f compose.yaml -f compose.dev.yaml up --build

# A virtual environment with what a lock names; made again when the lock changes.
$(VENV)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@awk '/^[^ #]/ { keep = /^uv==/ } keep' app/requirements-dev.lock >$(VENV)/uv.lock
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock

$(VENV)/demo $(VENV)/dev: $(VENV)/%: app/requirements-%.lock $(VENV)/bin/uv
	@scripts/install $(VENV) $<
	@touch $@
