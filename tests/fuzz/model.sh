#!/bin/sh
# The engine against a model, for about 40 seconds: a few seeds that meet every
# kind of volume (see model.c).  One seed again: tests/fuzz/model -v SEED
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
command -v "${NBDKIT:=nbdkit}" >/dev/null || {
  echo "nbdkit is missing: apt-get install nbdkit"
  exit 77
}
export NBDKIT

case ${SANITIZER-no} in
  no) seconds=5 seeds="1 2 3 4 5 6 7 8" ;;
  *) seconds=4 seeds="1 2 3" ;;
esac
TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS UBSAN_OPTIONS
# shellcheck disable=SC2086
exec timeout -k 20 900 ./model -t "${MODEL_TIME-$seconds}" ${SEEDS-$seeds}
