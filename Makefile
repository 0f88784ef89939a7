# `make run` starts everything; `make help` names the rest. PYTHON=/path/to/python3.12 chooses the Python of .venv.
PYTHON ?= python3
.PHONY: help run test check bench lock

help:
	@echo "make run     install what is missing, then start everything (Ctrl-C stops it)"
	@echo "make test    install what the tests need, then pass them all"
	@echo "make check   format, lint, types, import rules"
	@echo "make bench   the tables of README.md"
	@echo "make lock    resolve the locked dependencies anew (needs uv)"

run:
	@$(PYTHON) nopenai_site/bootstrap.py runtime
	@exec .venv/bin/python manage.py up

test:
	@$(PYTHON) nopenai_site/bootstrap.py tests
	@tests/system-packages
	.venv/bin/python -m pytest tests/unit tests/integration tests/acceptance tests/browser

check:
	@$(PYTHON) nopenai_site/bootstrap.py tests
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy .
	.venv/bin/lint-imports

bench:
	@$(PYTHON) nopenai_site/bootstrap.py tests
	.venv/bin/python -m tests.bench

# The locks hold no index address: whoever installs uses their own.
COMPILE = uv pip compile pyproject.toml --quiet --generate-hashes --python-version 3.11 --python-platform linux \
	--no-emit-index-url --no-header
lock:
	$(COMPILE) --output-file deploy/requirements.lock
	$(COMPILE) --group dev --constraints deploy/requirements.lock --output-file tests/requirements.lock
