#!/bin/bash
# The Debian packages: they are built from the tree, lintian has nothing to say,
# and the main job works where nothing else is installed, as the units start it.
#
# That place is a new chroot of this machine's release; for another's:
#   scripts/test-in trixie make -C tests/install check TESTS=test-packages.sh
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH=/usr/bin:/bin:$PATH:/usr/sbin:/sbin
top=$TOP_SRCDIR
. "$top/scripts/common.sh"

if [ "${1-}" = inside ]; then
  # In namespaces of its own: there is no network but this host's.
  root=$2
  ip link set lo up
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LC_ALL=C.UTF-8 bash /srv/main-job.sh
fi

[ "${SANITIZER:-no}" = no ] || { echo "not with sanitizers"; exit 77; }
for program in dpkg-buildpackage dh dh_python3; do
  command -v $program > /dev/null || { echo "no $program"; exit 77; }
done
base=$(mktemp -d /var/tmp/bip-XXXXXX)
trap 'rm -rf --one-file-system "$base"' EXIT

mkdir "$base/src"
tar -C "$top" --exclude=./build --exclude=./.git --exclude=./autom4te.cache -c . |
  tar -x -C "$base/src"
# (The tree may be read-only, as that of an archive is.)
chmod -R u+w "$base/src"
(
  cd "$base/src"
  dpkg-checkbuilddeps > ../lacks 2>&1 || { cat ../lacks; exit 77; }
  # Not those of the make that runs this.
  unset MAKEFLAGS MFLAGS MAKELEVEL CFLAGS LDFLAGS CC
  DEB_BUILD_OPTIONS="nocheck noautodbgsym parallel=$(nproc)" \
    dpkg-buildpackage -b -us -uc > ../log 2>&1 || { tail -n 50 ../log; exit 1; }
)
echo "built: $(cd "$base" && echo ./*.deb)"
! grep 'dh_missing: ' "$base/log" || { echo "not all is in a package"; exit 1; }
if command -v lintian > /dev/null; then
  # (A chroot's files may have an owner that lintian does not know.)
  lintian --fail-on error,warning "$base"/*.changes
  echo "lintian"
else
  echo "no lintian: not looked at"
fi

# What needs systemd's eyes, out of the packages.
if command -v systemd-analyze > /dev/null; then
  mkdir "$base/units"
  for package in nbdkit-plugin-backfill backfilld; do
    dpkg -x "$base/${package}"_*.deb "$base/units"
  done
  cd "$base/units"
  find . -path '*systemd/system/*' -exec cp {} . \;
  # (That each starts what is there the chroot shows.)
  sed -i 's,^ExecStart=[^ ]*,ExecStart=/bin/true,' ./*.service
  for unit in nbdkit-backfill@vm1.service=14 backfilld.service=23; do
    cp "nbdkit-backfill@.service" "nbdkit-backfill@vm1.service"
    systemd-analyze security --offline=true --threshold="${unit#*=}" \
      "./${unit%=*}" > "$base/said" 2>&1 || { cat "$base/said"; exit 1; }
    tail -n 1 "$base/said"
    ! grep -E '^(PrivateUsers|ProcSubset)=' "${unit%=*}" || exit 1
    systemd-analyze verify --man=no "./${unit%=*}" > "$base/said" 2>&1 ||
      { cat "$base/said"; exit 1; }
    ! grep -F "${unit%=*}" "$base/said" || exit 1
  done
  cd "$base"
  echo "units"
fi

if [ "$(id -u)" -ne 0 ] || ! command -v mmdebstrap > /dev/null; then
  echo "no mmdebstrap, or not root: not installed anywhere"
  exit 77
fi
unshare --mount --net --pid --fork true || { echo "no namespaces"; exit 77; }
suite=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
debian_sources "$suite" > "$base/sources"
[ -s "$base/sources" ] || { echo "apt has no sources here"; exit 77; }
root=$base/root
make_chroot "$suite" "$root" --variant=apt --dpkgopt=force-unsafe-io \
  --include=libnbd-bin < "$base/sources" > "$base/log" 2>&1 || {
  tail -n 20 "$base/log"
  echo "no chroot could be made: is there no mirror?"
  exit 77
}
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mkdir "$root/srv/debs"
cp "$base"/*.deb "$root/srv/debs/"
cp "$here/main-job.sh" "$here/../lib/wait.sh" "$root/srv/"
for file in resolv.conf hosts; do
  cp "/etc/$file" "$root/etc/$file"
done
# With all that they say they need, and nothing that they recommend.
in_root () {
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@" > "$base/log" 2>&1
}
apt () {
  in_root apt-get -q install -y --no-install-recommends \
    -o Dpkg::Options::=--force-unsafe-io "$@" \
    /srv/debs/nbdkit-plugin-backfill.deb /srv/debs/backfill-tools.deb \
    /srv/debs/backfilld.deb /srv/debs/libbackfill0.deb
}
for file in "$root"/srv/debs/*.deb; do
  mv "$file" "${file%%_*}.deb"
done
in_root apt-get -q update || { tail -n 5 "$base/log"; echo "no mirror"; exit 77; }
apt --simulate || { tail -n 30 "$base/log"; exit 1; }
apt --download-only || { tail -n 5 "$base/log"; echo "no mirror"; exit 77; }
apt || { tail -n 30 "$base/log"; exit 1; }
echo "installed in $suite"
unshare --mount --propagation private --net --pid --fork --kill-child \
  bash "$here/test-packages.sh" inside "$root"
