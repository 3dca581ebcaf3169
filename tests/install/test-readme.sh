#!/bin/bash
# What README.md tells a user to type works, word by word: make install, a
# disk from another host, its job, detach, the restart, backfilld.
#
# It runs on this machine as if nobody else used it: an overlay over its files, that
# is thrown away, and namespaces.  The other host, `images`, is itself.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

if [ "${1-}" != inside ]; then
  [ "${SANITIZER:-no}" = no ] || { echo "not with sanitizers"; exit 77; }
  [ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
  for program in unshare ip nbdkit nbdcopy python3; do
    command -v $program > /dev/null || { echo "no $program"; exit 77; }
  done
  unshare --mount --net --pid --fork true || { echo "no namespaces"; exit 77; }
  base=$(mktemp -d /tmp/bir-XXXXXX)
  trap 'rm -rf "$base"' EXIT
  unshare --mount --propagation private --net --pid --fork --kill-child \
    bash "$here/test-readme.sh" inside "$base" || exit
  exit 0
fi

base=$2
if [ ! -e "$base/is-here" ]; then
  # Not yet in the other root.
  mkdir "$base/upper" "$base/work" "$base/root"
  mount -t overlay overlay "$base/root" \
    -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" ||
    { echo "no overlay"; exit 77; }
  root=$base/root
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/run"
  # What is on another file system is not in the overlay.  The test's disks are
  # on a real one.
  for dir in "$TOP_SRCDIR" "$TOP_BUILDDIR"; do
    [ -e "$root$dir/Makefile.am" ] || [ -e "$root$dir/Makefile" ] || {
      mkdir -p "$root$dir"
      mount --rbind "$dir" "$root$dir"
    }
  done
  mkdir -p "$base/disks/volumes" "$root$base" "$root/var/lib/volumes"
  mount --bind "$base/disks" "$root$base"
  mount --bind "$base/disks/volumes" "$root/var/lib/volumes"
  : > "$root$base/is-here"
  ip link set lo up
  exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    HOME="$base" LC_ALL=C.UTF-8 PREFIX="$PREFIX" TOP_SRCDIR="$TOP_SRCDIR" \
    TOP_BUILDDIR="$TOP_BUILDDIR" bash "$here/test-readme.sh" inside "$base"
fi

cd "$base"
: > none.log
trap 'status=$?; [ $status -eq 0 ] || tail -n 50 ./*.log; exit $status' EXIT

say () {
  echo "== $*"
}

. "$here/../lib/wait.sh"

# Build and install.  The build has been done.
python3 "$here/readme-blocks.py" "$TOP_SRCDIR/README.md" "Build and install" build > /dev/null
grep -qx 'make install' build/1
(cd "$TOP_BUILDDIR" && make install) > install.log 2>&1
rm install.log
# If it was not configured for /usr as README.md has it, nbdkit's folder and
# the loader's have to be told.
if [ "$PREFIX" != /usr ]; then
  plugin=$(find "$PREFIX" -name nbdkit-backfill-plugin.so)
  cp "$plugin" "$(nbdkit --dump-config | sed -n 's/^plugindir=//p')/"
  ldconfig
  PATH=$PREFIX/sbin:$PREFIX/bin:$PATH
fi
say "installed: $(backfill --version)"

# images has an export "debian".
echo "127.0.0.1 images" >> /etc/hosts
seq 9000000 | head -c 48M > golden
truncate -s 64M golden
nbdkit -r -P golden.pid --filter=exportname file golden \
  exportname=debian exportname-strict=true
wait_for test -s golden.pid

[ "$(python3 "$here/readme-blocks.py" "$TOP_SRCDIR/README.md" "Use it" use)" = 5 ]
serve=use/1 job=use/2 restart=use/3 daemon=use/4 offline=use/5

# block FILE: what a user types.
block () {
  sed 's/^/    $ /' "$1"
  bash -e "$1"
}

# The servers of the README; golden's is not one.
servers () {
  pgrep -f '^nbdkit -U /tmp/vm1.sock' || :
}

# end SIGNAL
end () {
  local pid
  pid=$(servers)
  [ -n "$pid" ]
  kill "-$1" "$pid"
  wait_for sh -c "! kill -0 $pid"
}

uri=$(grep -o 'nbd+unix:[^)`]*' "$TOP_SRCDIR/README.md" | head -n 1)
# What the disk must be: the golden image, and the guest's writes.
cp --sparse=always golden truth
write_at () { # OFFSET TEXT
  nbdcopy_write "$@"
  printf %s "$2" | dd of=truth bs=1 seek="$1" conv=notrunc status=none
}
nbdcopy_write () {
  /usr/bin/python3 - "$uri" "$@" <<'PY'
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(sys.argv[3].encode(), int(sys.argv[2]))
h.flush()
h.shutdown()
PY
}
is_right () {
  nbdcopy "$uri" seen
  cmp seen truth
  rm seen
}

rm -f /tmp/vm1.sock
say "a disk whose content is on another host"
block "$serve"
wait_for backfill list
write_at 70000 'the guest was here'

say "a restart in the middle of the job, after SIGTERM and after SIGKILL"
backfill allocate --speed 1M
for signal in TERM KILL; do
  end $signal
  block "$restart"
  wait_for sh -c 'backfill info | grep -q "^job  *running"'
done
write_at 20000000 'and here'
backfill abort

say "the job, and detach"
block "$job"
[ -s disk.svg ]
write_at 30000000 'and after detach'
is_right

say "a restart after detach, after SIGTERM and after SIGKILL"
for signal in TERM KILL TERM; do
  end $signal
  cmp disk.img truth
  block "$restart"
  wait_for backfill list
  is_right
  write_at 40000000 "and after $signal"
done
end TERM
cmp disk.img truth

say "without a guest"
kill "$(cat golden.pid)"
wait_for sh -c "! kill -0 $(cat golden.pid)"
nbdkit -r --filter=exportname file golden exportname=debian exportname-strict=true
block "$daemon" > daemon.log 2>&1 < /dev/null
cat daemon.log
wait_for sh -c 'find /run -name backfilld.sock -type s | grep .'
block "$offline"
cmp golden /var/lib/volumes/vm2.img
echo "all of it works"
