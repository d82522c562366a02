# Two commands do everything: `make demo` runs the main job, `make test` passes the tests. Both set up first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test setup lint types unit test-airflow-postgresql docs airflow lock clean

demo: $(READY)
	$(BIN)/attractor demo

test: lint types unit

setup: $(READY)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest

# The pages of docs/reference, from the code.
docs: $(READY)
	$(BIN)/python -m export.reference docs/reference

# A night under Airflow's own processes with its database in PostgreSQL: minutes, so that `make test` leaves it out.
test-airflow-postgresql: $(READY)
	$(BIN)/python -m pytest -m airflow_processes tests/dags/test_postgresql.py

# Set-up happens once, and again when what is declared or locked changes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Attractor needs Python 3.11; say make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# Airflow on this machine, loopback only: http://127.0.0.1:8080
airflow: $(READY)
	AIRFLOW_HOME="$(CURDIR)" $(BIN)/airflow db migrate
	AIRFLOW_HOME="$(CURDIR)" $(BIN)/airflow pools import pools.json
	AIRFLOW_HOME="$(CURDIR)" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/airflow standalone

# For maintainers: resolve anew. CUDA wheels are dropped, so that a CPU build of torch satisfies the lock.
lock:
	python3 -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	rm -f constraints.txt
	.venv-lock/bin/uv pip compile --universal --all-extras --no-header --no-annotate -p 3.11 pyproject.toml \
	  | grep -vE '^(nvidia|cuda-|triton)' > constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
