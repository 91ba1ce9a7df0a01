# Two commands do everything on a fresh machine: `make demo` and `make test`.
# On Linux outside a machine with a CPU build at hand, the default wheel of torch brings CUDA along (gigabytes, and it works
# as well): TORCH_ARGS=--index-url=URL names an index of CPU builds instead.

PYTHON ?= python3
VENV ?= .venv
TORCH_ARGS ?=
JOBS ?= 2
BIN = $(VENV)/bin

.PHONY: demo test lint docs screenshots bench mutate long compose-test clean

demo: $(VENV)/ready
	@$(BIN)/consortium demo

# Lint, types and every quick test, JOBS files at a time; SLOW=1 adds the slow ones (real Flower processes, virtual environments).
test: lint
	@$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(if $(SLOW),--durations 30,-m "not slow") $(ARGS)

lint: $(VENV)/ready
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# The pages of docs/ as a site, in site/: any web server shows it, and a browser by itself all but the search.
docs: $(VENV)/ready
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pictures of docs/dashboard.md, of a run that is trained for them (a minute). Look at them before you keep them.
screenshots: $(VENV)/ready
	@CONSORTIUM_REQUIRE_CHROMIUM=1 CONSORTIUM_SCREENSHOTS=1 $(BIN)/pytest tests/browser/test_screenshots.py

bench: $(VENV)/ready
	@$(BIN)/python -m bench

# Delete each refusal in turn and see a test fail.
mutate: $(VENV)/ready
	@$(BIN)/python -m tests.mutate

# All of what CI searches a part of: changed bytes, forged proofs, failing disks, kills, machines of several processes.
long: $(VENV)/ready
	@CONSORTIUM_LONG=1 $(BIN)/pytest tests/records/test_fuzz.py tests/records/test_merkle.py \
		tests/ledger/test_faulty_disk.py tests/ledger/test_kill.py tests/test_kills.py tests/training/test_machine.py

# The consortium of compose.yaml, for real; needs Docker.
compose-test:
	@bash tests/compose.sh

clean:
	rm -rf $(VENV) .consortium-demo build dist site

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'torch==2.13.*' $(TORCH_ARGS)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@
