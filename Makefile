# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-output

.PHONY: demo test test-lab lint notebooks clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.core ## replay the bundled real traces, write pictures and one page
	$(BIN)/migkit report data/traces -o $(OUT) --force \
	  --policy kubevirt-1.8 \
	  --policy hyperconverged=kubevirt-1.8,completion_timeout_per_gib=20 \
	  --policy tight=kubevirt-1.8,progress_timeout=5,completion_timeout_per_gib=10,allow_workload_disruption=true,allow_post_copy=true

test: $(VENV)/.dev lint ## everything this machine can
	$(BIN)/python -m pytest -m "not lab or smoke"

test-lab: $(VENV)/.dev ## every test that makes real migrations (root, libvirt, QEMU)
	MIGKIT_REQUIRE_LAB=1 $(BIN)/python -m pytest -m lab

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.dev ## opens JupyterLab on notebooks/
	$(BIN)/jupyter lab notebooks

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV) || { echo "make: needs Python's venv module (Debian: apt-get install python3-venv)"; exit 1; }
	touch $@

$(VENV)/.core: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# libvirt's bindings are compiled against its headers: they come along where the headers are.
$(VENV)/.dev: pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,fast,notebook]'
	if pkg-config --exists libvirt 2>/dev/null; then $(BIN)/python -m pip install --quiet --editable '.[libvirt]'; fi
	touch $@ $(VENV)/.core

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

golden: $(VENV)/.dev ## accept what the policies decide now; look at the diff
	$(BIN)/python -m pytest -q tests/test_golden.py --migkit-update
	$(BIN)/python -m tests.capture.logs.test_golden_imports
	git diff --stat tests

.PHONY: data golden
data: $(VENV)/.core ## the pages of data/ from the traces' metadata
	$(BIN)/migkit info data/traces --card > data/README.md
	$(BIN)/migkit info --columns > data/GLOSSARY.md
	$(BIN)/migkit info data/traces --downtime > data/DOWNTIME.md
	$(BIN)/migkit plot data/traces --kind downtime -o data --force
	$(BIN)/python -m tests.cli.picture > data/migrate.svg
