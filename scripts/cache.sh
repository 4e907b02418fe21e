#!/usr/bin/env bash
# Prints the folder for what is built once and shared by every profile and clone:
# $COEVAL_BUILD_CACHE, else $XDG_CACHE_HOME/coeval-build, else ~/.cache/coeval-build.
echo "${COEVAL_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coeval-build}"
