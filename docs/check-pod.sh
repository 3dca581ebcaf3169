#!/bin/sh
# A manual page: podchecker finds nothing, and the sections are there that
# every page has.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
pod=$1
if [ -z "${PODCHECKER-}" ]; then
  echo "podchecker is missing: apt-get install perl"
  exit 77
fi
said=$("$PODCHECKER" -warnings -warnings "$pod" 2>&1) || { echo "$said"; exit 1; }
case "$said" in
  *WARNING* | *ERROR*) echo "$said"; exit 1 ;;
esac
for section in NAME DESCRIPTION "SEE ALSO"; do
  grep -q "^=head1 $section\$" "$pod" || {
    echo "$pod has no section $section"
    exit 1
  }
done
if grep -nE '[[:space:]]+$' "$pod"; then
  echo "$pod has blanks at the end of lines"
  exit 1
fi
