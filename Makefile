# Needs Python 3.10 to 3.13, git and make. `make demo` and `make test` set up .venv themselves (uv if present, else pip).
SHELL := /bin/bash
# two processes at a time: idle threads sleep at once, since what they wait with is the other process's time
test pytest notebooks figures: export OMP_WAIT_POLICY ?= passive

# PYTHON=... chooses the interpreter; without it, the first of these that runs and fits
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3.13 python3.10 python3)
PY := .venv/bin/python
STAMP := .venv/.stamp
# there while a set-up that created .venv runs; left over, it tells that the set-up was interrupted
UNFINISHED := .venv/.unfinished
SAMPLES := $(sort $(wildcard $(addprefix ouroboros_lib/data/samples/*.,png webp jpg)))
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
SOLUTIONS := $(sort $(wildcard notebooks/solutions/*.ipynb))
PAPERMILL := .venv/bin/python tests/kernels_over_ipc.py --no-progress-bar --log-level WARNING -k python3

.PHONY: help demo test lint pytest notebooks book figures clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z]+:.*##/ {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(STAMP)  ## check this machine, then turn the sample pictures into views and splats
	@.venv/bin/ouroboros doctor
	@.venv/bin/ouroboros generate $(SAMPLES) --out outputs/demo --elevation 25
	@echo "Done. Look into outputs/demo: recursion.png shows the recursion; open viewer.html in a browser."

test: lint pytest notebooks  ## everything that .ci/run checks: lint, tests, notebooks

lint: $(STAMP)  ## style, which room imports which, types of what users call
	@$(PY) -m ruff check .
	@.venv/bin/lint-imports
	@$(PY) -m mypy

# Two at a time, a thread each: most of a test is Python, which keeps one core busy.
pytest: $(STAMP)  ## the tests alone
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

# papermill: each notebook runs from top to bottom with smaller parameters than its own; nbval: with its own, and the
# solutions, and what is marked compares. Two at a time, a thread each: small models are no faster with two.
QUICK_00_quickstart := -p steps 5
QUICK_01_multiview_diffusion := -p steps 3
QUICK_02_gaussian_reconstruction := -p fit_steps 100 -p fit_count 3000
QUICK_03_self_conditioning_feedback := -p steps 4
QUICK_04_joint_training := -p autoencoder_steps 30 -p joint_steps 10
QUICK_05_gso_evaluation := -p samples 2 -p steps 2
QUICK_06_paper_scale := -p steps 2
# With PRESET or DEVICE the experiments are rerun at that size or there, one after the other; the executed notebooks
# stay, and nothing is compared with the committed ones.
RERUN := $(or $(PRESET),$(DEVICE))
notebooks: $(STAMP)  ## run all notebooks and compare their outputs; PRESET=small DEVICE=cuda: rerun them there, and keep
ifdef RERUN
	@mkdir -p outputs/notebooks-$(RERUN); export PATH="$(CURDIR)/.venv/bin:$$PATH"; failed=0; \
	for notebook in $(NOTEBOOKS); do \
		start=$$SECONDS; result=ok; \
		$(PAPERMILL) --cwd notebooks $(PRESET:%=-p preset %) $(DEVICE:%=-p device %) \
			$$notebook outputs/notebooks-$(RERUN)/$$(basename $$notebook) || { result=failed; failed=1; }; \
		echo "$$(basename $$notebook) $$((SECONDS - start)) s $$result"; \
	done; echo "executed notebooks: outputs/notebooks-$(RERUN)"; exit $$failed
else
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	export OMP_NUM_THREADS=1 PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	printf '%s\n' $(foreach notebook,$(NOTEBOOKS),"$(notebook) $(QUICK_$(basename $(notdir $(notebook))))") | \
		xargs -P 2 -L 1 sh -c 'echo "papermill $$*"; notebook=$$1; shift; \
			$(PAPERMILL) --cwd notebooks "$$@" "$$notebook" "$$0/$$(basename "$$notebook")"' "$$folder"
	@OMP_NUM_THREADS=1 PATH="$(CURDIR)/.venv/bin:$$PATH" PYTHONPATH=tests $(PY) -m pytest -p kernels_over_ipc \
		--nbval-lax --nbval-current-env -n 2 --dist loadfile \
		$(NOTEBOOKS) $(SOLUTIONS)
endif

book: $(STAMP)  ## the course as web pages that need no kernel: outputs/book/index.html
	@$(PY) -m tools.book notebooks outputs/book

figures: $(STAMP)  ## make all pictures in figures/ again
	@.venv/bin/ouroboros generate ouroboros_lib/data/samples/snowman.png --elevation 25 --out outputs/figures
	@$(PY) -m tools.families --out outputs/figures/families.png
	@$(PY) -m tools.hero --out figures
	@for name in recursion families; do $(PY) -c "import sys; from PIL import Image; \
		sheet = Image.open(f'outputs/figures/{sys.argv[1]}.png').convert('RGB'); \
		sheet.resize((sheet.width * 3 // 4, sheet.height * 3 // 4)).save(f'figures/{sys.argv[1]}.png', optimize=True)" \
		$$name; done
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; export PATH="$(CURDIR)/.venv/bin:$$PATH"; \
	for notebook in $(filter-out notebooks/00%,$(NOTEBOOKS)) notebooks/solutions/03_solutions.ipynb; do \
		echo "papermill $$notebook"; \
		$(PAPERMILL) --cwd "$$(dirname "$$notebook")" -p figure_folder "$(CURDIR)/figures" \
			"$$notebook" "$$folder/$$(basename "$$notebook")"; \
	done

clean:  ## remove .venv, caches and the demo's outputs
	rm -rf .venv outputs/demo build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
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
		echo "Setting up .venv with $$("$$python" --version) and $$tool: some minutes and 6 GB, once"; \
		rm -rf .venv; mkdir .venv; touch $(UNFINISHED); \
		if [ $$tool = uv ]; then uv venv --quiet --allow-existing --no-python-downloads --python "$$python" .venv; \
		else "$$python" -m venv .venv; fi; \
	fi
	@if uv --version >/dev/null 2>&1; then uv pip install --quiet --compile-bytecode --python $(PY) -e '.[test]'; \
	else $(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'; fi
	@rm -f $(UNFINISHED); touch $@
