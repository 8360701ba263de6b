# Two commands do all set-up on a fresh machine: `make report` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: report test slow lint types docs pictures notebooks bench clean

report: $(VENV)/ready
	$(BIN)/convscope report -o report.html

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # one thread each: two workers fill two cores

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with --quiet it would overlook warnings

pictures: $(VENV)/ready
	$(BIN)/python docs/pictures.py

notebooks: $(VENV)/ready
	$(BIN)/python -m nbconvert --to notebook --execute --inplace docs/notebooks/*.ipynb

bench: $(VENV)/ready
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and pinned: a bare torch may bring gigabytes that a CPU does not need.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo,dev]'
	touch $@

clean:
	rm -rf $(VENV) site report.html report.json
