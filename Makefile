# Needs Python 3.10 to 3.13, git and make. What a target needs is set up in .venv first (with uv if present, else pip).
SHELL := /bin/bash
# two processes at a time: idle threads sleep at once, since what they wait with is the other process's time
test pytest notebooks figures test-oldest: export OMP_WAIT_POLICY ?= passive

# PYTHON=... chooses the interpreter; without it, the first of these that runs and fits
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3.13 python3.10 python3)
PY := .venv/bin/python
CORE := .venv/.core
COURSE := .venv/.course
STAMP := .venv/.stamp
# TORCH=cpu takes builds of torch without CUDA, of 1 GB instead of 6: from TORCH_INDEX, or from where uv knows them to be
TORCH ?=
TORCH_INDEX ?=
# there while a set-up that created .venv runs; left over, it tells that the set-up was interrupted
UNFINISHED := .venv/.unfinished
SAMPLES := $(sort $(wildcard $(addprefix ouroboros_lib/data/samples/*.,png webp jpg)))
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
SOLUTIONS := $(sort $(wildcard notebooks/solutions/*.ipynb))
PAPERMILL := .venv/bin/python tests/kernels_over_ipc.py --no-progress-bar --log-level WARNING -k python3

# Two at a time, a thread each: most of a test is Python, which keeps one core busy, and small models are no faster with
# two. A worker takes the next file, test module or notebook, when it is done with one.
POOL := PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH="$(CURDIR)/tests" OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile
# papermill: each notebook with smaller parameters than its own; nbval: with its own, and the solutions, and what is
# marked compares.
RUNS := -p kernels_over_ipc -p quick_notebooks --nbval-lax --nbval-current-env $(NOTEBOOKS) $(SOLUTIONS)

LINT := $(PY) -m ruff check . && .venv/bin/lint-imports && $(PY) -m mypy

.PHONY: help demo course test lint pytest kill fuzz notebooks minutes book figures test-oldest setup clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(CORE)  ## check this machine, then turn the sample pictures into views and splats
	@.venv/bin/ouroboros doctor
	@.venv/bin/ouroboros generate $(SAMPLES) --out outputs/demo --elevation 25
	@echo "Done. Look into outputs/demo: recursion.png shows the recursion; open viewer.html in a browser."

course: $(COURSE)  ## the notebooks in JupyterLab
	@.venv/bin/jupyter lab --LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb

# `make notebooks` runs everything both ways. `make test` leaves out what takes minutes and shows the least: smaller
# parameters that make a lesson hardly faster, and own parameters of solutions that are fast with smaller ones.
SLOW := $(foreach name,02_multiview_diffusion 03_gaussian_reconstruction 04_self_conditioning_feedback 05_joint_training \
	06_gso_evaluation,--deselect notebooks/$(name).ipynb::papermill) \
	$(foreach name,00 02 04,--deselect "notebooks/solutions/$(name)_solutions.ipynb::Cell")
# Notebooks first, long as they are, then the tests: both workers are busy to the end. Lint beside them, which is one
# process for a minute.
test: $(STAMP)  ## everything that .ci/run checks: lint, tests, notebooks
	@($(LINT)) & lint=$$!; $(POOL) --no-loadscope-reorder $(SLOW) $(RUNS) tests; tested=$$?; \
		wait $$lint && exit $$tested

lint: $(STAMP)  ## style, which room imports which, types of what users call
	@$(LINT)

pytest: $(STAMP)  ## the tests alone
	@$(POOL) tests

KILLS ?= 50
kill: $(STAMP)  ## end training and other long work at 50 random moments (KILLS=...): results must be as if nothing had been
	@KILLS=$(KILLS) PYTHONPATH="$(CURDIR)/tests" OMP_NUM_THREADS=1 $(PY) -m pytest -q --timeout 0 tests/training/test_kills.py \
		tests/cli/test_kills.py

MINUTES ?= 20
SEED ?=
fuzz: $(STAMP)  ## damaged files for every reader, for MINUTES=20 (SEED=... repeats a run): findings in outputs/fuzz
	@PYTHONPATH="$(CURDIR):$(CURDIR)/tests" nice -n 10 $(PY) -m fuzz --minutes $(MINUTES) $(SEED:%=--seed %)

# With PRESET or DEVICE the experiments are rerun at that size or there, one after the other; the executed notebooks
# stay, and nothing is compared with the committed ones. 01 and 07 have neither weights nor a device to choose.
RERUN := $(or $(PRESET),$(DEVICE))
notebooks: $(STAMP)  ## run all notebooks and compare their outputs; PRESET=small DEVICE=cuda: rerun them there, and keep
ifdef RERUN
	@mkdir -p outputs/notebooks-$(RERUN); export PATH="$(CURDIR)/.venv/bin:$$PATH"; failed=0; \
	for notebook in $(filter-out notebooks/01% notebooks/07%,$(NOTEBOOKS)); do \
		start=$$SECONDS; result=ok; \
		$(PAPERMILL) --cwd notebooks $(PRESET:%=-p preset %) $(DEVICE:%=-p device %) \
			$$notebook outputs/notebooks-$(RERUN)/$$(basename $$notebook) || { result=failed; failed=1; }; \
		echo "$$(basename $$notebook) $$((SECONDS - start)) s $$result"; \
	done; echo "executed notebooks: outputs/notebooks-$(RERUN)"; exit $$failed
else
	@$(POOL) $(RUNS)
endif

# on a machine that does nothing else, from the notebooks as they are committed
minutes: $(STAMP)  ## run all notebooks one after the other, and write into them how long they take
	@set -e; rm -rf outputs/executed; mkdir -p outputs/executed; export PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	for notebook in $(NOTEBOOKS); do \
		echo "papermill $$notebook"; $(PAPERMILL) --cwd notebooks $$notebook outputs/executed/$$(basename $$notebook); \
	done
	@$(PY) -m tools.book.minutes outputs/executed

book: $(STAMP)  ## course, docs and results as a site that needs no network: outputs/book/index.html
	@$(PY) -m tools.book outputs/book

# what the sheets of objects show beside procedural ones: FOLDERS="held_out scans_128", as `data render` makes them;
# without it they stay as they are
FOLDERS ?=
figures: $(STAMP)  ## make all pictures in figures/ again
	@[ -z "$(FOLDERS)" ] || $(PY) -m tools.families mug,chair,teapot $(addprefix --data ,$(FOLDERS)) --take 4 \
		--photo ouroboros_lib/data/samples/coffee.webp --elevation 35 --out outputs/figures/families.png
	@$(PY) -m tools.hero --out figures
	@$(PY) -c "from ouroboros_lib.course.ring import ring; \
		ring().savefig('figures/ring.svg', metadata={'Date': None})"
	@[ -z "$(FOLDERS)" ] || $(PY) -c "from PIL import Image; \
		sheet = Image.open('outputs/figures/families.png').convert('RGB'); \
		sheet.resize((sheet.width * 3 // 4, sheet.height * 3 // 4)).save('figures/families.png', optimize=True)"
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; export PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	for notebook in $(filter-out notebooks/00%,$(NOTEBOOKS)) notebooks/solutions/04_solutions.ipynb; do \
		echo "papermill $$notebook"; \
		$(PAPERMILL) --cwd "$$(dirname "$$notebook")" -p figure_folder "$(CURDIR)/figures" \
			"$$notebook" "$$folder/$$(basename "$$notebook")"; \
	done
	@$(PY) -m tools.attach

# On Python 3.10, in an environment of its own. TESTS="tests/cli tests/models": only these.
TESTS ?= tests
test-oldest:  ## the tests with the oldest versions that pyproject.toml allows; needs uv
	@uv --version >/dev/null || { echo "test-oldest: needs uv, which can resolve the oldest versions" >&2; exit 1; }
	@uv venv --quiet --clear --no-python-downloads --python 3.10 .venv-oldest
	@uv pip install --quiet --python .venv-oldest --resolution lowest-direct -e '.[test]'
	@OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist loadfile $(TESTS)

setup: $(STAMP)  ## only set up what `make test` needs

clean:  ## remove .venv, caches and the demo's outputs
	rm -rf .venv .venv-oldest outputs/demo notebooks/outputs notebooks/solutions/outputs build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,WHAT): into .venv, which is made first where there is none
define install
	@set -e; if [ -e $(UNFINISHED) ] || ! $(PY) -c '' 2>/dev/null; then \
		fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'; \
		if uv --version >/dev/null 2>&1; then tool=uv; else tool=pip; fits="import ensurepip; $$fits"; fi; \
		python=; for candidate in $(CANDIDATES); do \
			if "$$candidate" -c "$$fits" >/dev/null 2>&1; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "No usable Python 3.10 to 3.13 with venv among: $(CANDIDATES). Install one (Debian: also python3-venv)" \
				"or name it: make PYTHON=/path/to/python" >&2; exit 1; \
		fi; \
		echo "Setting up .venv with $$("$$python" --version) and $$tool: some minutes and $(if $(filter cpu,$(TORCH)),1,6) GB, once"; \
		rm -rf .venv; mkdir .venv; touch $(UNFINISHED); \
		if [ $$tool = uv ]; then uv venv --quiet --seed --allow-existing --no-python-downloads --python "$$python" .venv; \
		else "$$python" -m venv .venv; fi; \
	fi
	@set -e; if uv --version >/dev/null 2>&1; then \
		get="uv pip install --quiet --compile-bytecode --python $(PY)"; backend="--torch-backend cpu"; \
	else get="$(PY) -m pip install --quiet --disable-pip-version-check"; backend=; fi; \
	if [ "$(TORCH)" = cpu ]; then \
		index='$(TORCH_INDEX)'; how=$${index:+--index-url $$index}; how=$${how:-$$backend}; \
		if [ -z "$$how" ]; then echo "TORCH=cpu: pip must be told where the builds for CPUs are: set TORCH_INDEX to what" \
			"https://pytorch.org/get-started/locally gives as --index-url, or install uv" >&2; exit 1; fi; \
		$$get torch torchvision $$how; \
	fi; \
	$$get -e '$(1)'
	@rm -f $(UNFINISHED); touch $@
endef

$(CORE): pyproject.toml
	$(call install,.)
$(COURSE): pyproject.toml
	$(call install,.[course])
	@touch $(CORE)
$(STAMP): pyproject.toml
	$(call install,.[test])
	@touch $(CORE) $(COURSE)
