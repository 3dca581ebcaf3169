# wait.sh - wait for something that another process does.
# SPDX-License-Identifier: LGPL-2.1-or-later

# wait_for COMMAND...: until it succeeds, for at most two minutes.  What it
# says is not shown.
wait_for () {
  for _ in $(seq 2400); do
    ! "$@" > /dev/null 2>&1 || return 0
    sleep 0.05
  done
  echo "timed out: $*" >&2
  return 1
}
