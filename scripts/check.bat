@echo off
rem The same as scripts/check, for Windows.
cd /d "%~dp0\.."
python -m ruff format --check . || exit /b 1
python -m ruff check . || exit /b 1
python -m mypy || exit /b 1
python -m pytest -n 2 --dist worksteal %*
