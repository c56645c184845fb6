# make quickstart   set up, build, and run the main job on data that needs no download
# make test         set up, build, and run the tests (below 15 minutes on two cores)
# make test-slow    the long tests
# make check        lint, types, import rules, C++ sanitizers
# make bench        kernels and the program runner against LiteRT (correctness first, then a table)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.graffiti-installed
KERNELS := $(shell find graffiti/ops -name '*.cc' -o -name '*.h' -o -name '*.inc' 2>/dev/null)
WORKERS ?= 2
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: quickstart test test-slow check bench install clean

install: $(STAMP)

# The op library is compiled against the TensorFlow it will run with: first everything that it needs, then the build.
$(STAMP): setup.py $(KERNELS)
	@echo "== setting up $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip setuptools wheel
	GRAFFITI_SKIP_OPS=1 $(BIN)/python -m pip install -q --no-build-isolation -e ".[dev,recipes,litert,onnx,hls4ml]"
	@echo "== building the op library"
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	touch $@

quickstart: install
	@echo "== quickstart: float -> static int8 -> ALT -> integer graph -> C -> report"
	rm -rf quickstart_out
	$(BIN)/python recipes/quickstart.py --out=quickstart_out

test: install
	@echo "== tests"
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q tests

test-slow: install
	$(BIN)/python -m pytest -q -m slow tests

check: install
	$(BIN)/ruff check graffiti recipes tools tests setup.py
	$(BIN)/mypy graffiti
	$(BIN)/python -m pytest -q tests/test_imports.py
	$(BIN)/python -m pytest -q -m sanitizer tests

bench: install
	$(BIN)/python tools/bench.py

clean:
	rm -rf build quickstart_out graffiti/ops/_build
	find graffiti -name '*.so' -delete
