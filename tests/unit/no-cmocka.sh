# Stands for the unit tests where they cannot be built.
# SPDX-License-Identifier: LGPL-2.1-or-later
echo "cmocka is missing: apt-get install libcmocka-dev, and configure again"
exit 77
