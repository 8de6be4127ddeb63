# Two commands to know: `make run` (the main job) and `make test`. Both create .venv on their first call.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.12 python3.11 python3.13 python3 python; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { echo "$$python"; break; }; done)
IMAGE ?=

.PHONY: help run test test-browser lab app notebooks screenshots bench bench-export bench-serve bench-scale report reproduce lint clean

help:
	@echo "make run [IMAGE=photo.jpg]  find the data, load or train the baseline, evaluate, plot, classify"
	@echo "make test                   check the types, run the unit tests, and the notebooks under nbval"
	@echo "make test-browser           run the long tests in a real browser: camera, app, large and many files"
	@echo "make lab                    open JupyterLab in notebooks/"
	@echo "make app                    serve upload and camera as a page without code, on this computer only"
	@echo "make notebooks              run all notebooks at full settings and store their outputs"
	@echo "make screenshots            take the README's screenshots in a real browser"
	@echo "make bench                  measure speed side by side with plain Keras and PyTorch; writes docs/speed.md's table"
	@echo "make bench-export           export the shipped models, measure files and web pages (eight minutes)"
	@echo "make bench-serve            measure the service beside plain FastAPI; writes docs/deployment.md's tables (12 minutes)"
	@echo "make bench-scale            measure trainings by several workers; writes docs/scale.md's tables (15 minutes)"
	@echo "make report                 measure the shipped models for their cards and the README's table (ten minutes)"
	@echo "make reproduce              train anew what is shipped, with the locked versions (two hours)"
	@echo "make lint                   check the style of code and notebooks"
	@echo "make clean                  remove .venv"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian and Ubuntu: the package python3-venv); make PYTHON=/path/to/python names one." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-notebooks: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[notebooks]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[notebooks,export,serve,test]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-notebooks

run: $(VENV)/.installed
	$(BIN)/imgclassify run $(if $(IMAGE),--image "$(IMAGE)")

test: $(VENV)/.installed-test
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not browser and not browser_full" --cov=imgclassify --cov-report=
	$(BIN)/python -m pytest -m browser --cov=imgclassify --cov-append --cov-report=term:skip-covered --cov-fail-under=95

test-browser: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m browser_full tests/browser

lab: $(VENV)/.installed-notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

# Voila (seen in 0.5.13) refuses its own page's farewell, so the processes of closed pages are ended by their idleness.
app: $(VENV)/.installed-notebooks
	$(BIN)/voila notebooks/app.ipynb --Voila.ip=127.0.0.1 --strip_sources=True \
	  --MappingKernelManager.cull_idle_timeout=120 --MappingKernelManager.cull_interval=30

notebooks: $(VENV)/.installed-test
	$(BIN)/python tests/run_notebooks.py

screenshots: $(VENV)/.installed-test
	IMGCLASSIFY_SCREENSHOTS=artifacts/screenshots $(BIN)/python -m pytest -m browser tests/browser/test_user_day.py

bench: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/bench.py
	$(BIN)/python tests/benchmarks/photos.py
	$(BIN)/python tests/benchmarks/checkpoints.py
	$(BIN)/python tests/benchmarks/answers.py
	$(BIN)/python tests/benchmarks/many.py

bench-export: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/exports.py

# LITSERVE=/path/to/python of an environment with litserve, and the packages of deploy/requirements.in, measures that too.
bench-serve: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/serving.py $(if $(LITSERVE),--litserve "$(LITSERVE)")

bench-scale: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/scale.py

report: $(VENV)/.installed-test
	$(BIN)/python tests/benchmarks/reports.py

reproduce: $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python tests/benchmarks/reproduce.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)
