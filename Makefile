# What a checkout can do. `make help` lists it; everything works from a fresh clone on a Debian machine, as root or as a
# user with sudo.

BIN := $(CURDIR)/.venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT_INSTALL := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends
DEMO := -i inventories/demo/hosts.yml
OPAL_PYTHON := roles/opal_server/files/python
COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'

MYPY := mypy --config-file .config/mypy.ini

# uv would look for certificates in a bundle of its own; a machine's trust is in the system's.
export UV_SYSTEM_CERTS := true
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export PATH := $(BIN):$(PATH)
export PULSAR_TEST_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/policyfleet.opal

.DEFAULT_GOAL := help
.PHONY: help venv engine images demo demo-down lint lint-yaml lint-ansible lint-python lint-types lint-docs docs test-unit test test-slow test-tools bench-rollout bench-backbone lock build

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 17

venv: .venv/.made .ansible/collections/ansible_collections/policyfleet/opal ## Make the controller's virtual environment in .venv

# Made anew when the lock changes; the mark is written last, so a half-made environment is never taken for a whole one.
.venv/.made: requirements-dev.txt
	@command -v ssh >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'venv: installing python3-venv and openssh-client'; \
	    $(SUDO) apt-get update -qq && $(APT_INSTALL) python3-venv openssh-client </dev/null >/dev/null; }
	@echo 'venv: installing the controller into .venv'
	@[ -x .venv/bin/python ] || python3 -m venv .venv
	@# uv comes by the hashes of the lock, too.
	@sed -n '/^uv==/,/^    # via/p' requirements-dev.txt >.venv/uv.txt
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	@$(BIN)/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements-dev.txt
	@touch $@

.ansible/collections/ansible_collections/policyfleet/opal:
	@mkdir -p $(@D) && ln -s ../../../.. $@

engine: ## Make sure that a container engine answers
	@tests/images/engine

images: engine ## Build the systemd images of the test hosts
	@tests/images/build.py debian12 debian13

demo: venv engine images ## Make a fleet in containers, roll out to it and prove it; it stays up
	@echo 'demo: building OPA from its source (some minutes, once)'
	@tests/opa/build.sh
	@echo 'demo: making the hosts, one of them with a policy repository and data'
	@ansible-playbook $(DEMO) molecule/shared/create.yml
	@ansible-playbook $(DEMO) tests/git_server/site.yml
	@echo 'demo: rolling out'
	@ansible-playbook $(DEMO) playbooks/site.yml
	@echo 'demo: moving Bob through each OPAL-server, and asking each OPA where he is'
	@ansible-playbook $(DEMO) tests/git_server/bob.yml
	@echo 'demo: proving that every update reaches every worker, and every OPA'
	@ansible-playbook $(DEMO) playbooks/verify.yml
	@echo "demo: the hosts stay up. 'ssh -F .cache/ssh/config-demo opal1' is one of them; 'make demo-down' removes them"

demo-down: venv ## Remove the demo fleet
	@ansible-playbook $(DEMO) molecule/shared/destroy.yml

lint: lint-yaml lint-ansible lint-python lint-types lint-docs ## Run the linters, with nothing left out

lint-yaml: venv
	yamllint --strict .

lint-ansible: venv
	ansible-lint

lint-python: venv
	ruff check --quiet --config .config/ruff.toml .
	ruff format --quiet --check --config .config/ruff.toml .

# The last two folders have modules that import one another by bare names, as pytest runs them.
lint-types: venv
	$(MYPY) .ansible/collections/ansible_collections/policyfleet/opal/plugins
	MYPYPATH=tests $(MYPY) docs tests/*.py tests/bench tests/browser tests/images tests/package tests/scenarios tests/unit
	MYPYPATH=tests:tests/hosts $(MYPY) tests/hosts
	MYPYPATH=tests:tests/clients $(MYPY) tests/clients

lint-docs: venv
	python docs/make_variables.py --check

test-unit: venv ## Run the unit tests, and those of the built collection
	python -m pytest tests/unit tests/package

test: venv test-tools engine images ## Run all tests but the slow ones; ends with the totals. STEPS='unit backbone' runs only some
	@python tests/run_all.py $(STEPS)

test-slow: venv test-tools engine images ## Run all tests, and 10,000 events under each fault (about 90 minutes); STEPS as above
	@python tests/run_all.py --slow $(STEPS)

# The backbone's tests start a real Pulsar on this machine, and share the archive that a rollout fetches. The HTML report is
# looked at in a browser.
test-tools:
	@command -v java >/dev/null && command -v git >/dev/null && command -v cc >/dev/null && command -v chromium >/dev/null || { \
	    echo 'test-tools: installing Java, git, a C compiler and Chromium'; \
	    $(SUDO) apt-get update -qq && $(APT_INSTALL) default-jre-headless git gcc libc6-dev chromium </dev/null >/dev/null; }

docs: venv ## Write docs/variables.md anew
	@python docs/make_variables.py

bench-rollout: venv engine images ## Measure a rollout beside a plain shell script
	@python tests/bench/rollout.py --rounds 3

bench-backbone: venv test-tools ## Measure the backbone beside upstream's backends
	@$(MAKE) -C backbone bench

lock: venv ## Compile the pinned requirements anew
	cd $(CURDIR) && $(COMPILE) requirements-dev.in --output-file requirements-dev.txt
	$(COMPILE) $(OPAL_PYTHON)/requirements.in --override $(OPAL_PYTHON)/overrides.txt --output-file $(OPAL_PYTHON)/requirements.txt
	$(COMPILE) $(OPAL_PYTHON)/uv.in --output-file $(OPAL_PYTHON)/uv.txt

build: venv ## Build the collection's archive into .cache/build
	@mkdir -p .cache/build && ansible-galaxy collection build --force --output-path .cache/build
