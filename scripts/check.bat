@echo off
rem scripts/check for Windows, with the same arguments.
python "%~dp0check" %*
