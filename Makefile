# Each target makes .venv itself when it is missing. PYTHON: the interpreter to start from.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check bench bench-full prove
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/hubtool demo

# The workers share the cores, so a thread that waits must not spin; each takes 1.5 GB. A file's tests stay together, as
# they share what they made; in the order of the files, or README's tour, which takes longest, would come last.
test: $(STAMP)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py

prove: $(STAMP)
	$(BIN)/python -m pytest -m prove

# The peers stand on top of .venv, in an environment of their own: fastai brings uvloop, which uvicorn would take up.
.venv/peers/.installed: $(STAMP)
	$(BIN)/python -m venv .venv/peers
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
		"$$(.venv/peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	touch $@

bench: .venv/peers/.installed
	$(BIN)/python -m benchmarks startup
	$(BIN)/python -m benchmarks checkpoint
	.venv/peers/bin/python -m benchmarks peers --rounds 3

bench-full: .venv/peers/.installed
	.venv/peers/bin/python -m benchmarks peers --train 2000 --val 500 --long
