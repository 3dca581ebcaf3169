# The examples of the manual's pages in section 3: each is compiled, without a
# warning, and does with a real server what its page says.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu

cc=${CC-cc}
command -v "${cc%% *}" >/dev/null || { echo "no C compiler"; exit 77; }
[ -n "$NBDKIT" ] || { echo "nbdkit is missing"; exit 77; }
[ "${SANITIZER:-no}" = no ] || { echo "not with sanitizers"; exit 77; }

dir=$(mktemp -d /tmp/ex-XXXXXX)
pids=
# A server that is told to quit ends when it has made all durable.
cleanup () {
  # shellcheck disable=SC2086
  [ -z "$pids" ] || { kill $pids 2>/dev/null || :; wait $pids 2>/dev/null || :; }
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
BACKFILL_RUNTIME_DIR=$dir/run
export BACKFILL_RUNTIME_DIR

flags="-std=gnu11 -Wall -Wextra -Wshadow -Wvla -Werror -I$TOP_SRCDIR/lib
-I$TOP_SRCDIR/lib/libvirt -L$TOP_BUILDDIR/lib/.libs"
libvirt_libs="-L$TOP_BUILDDIR/lib/libvirt/.libs -lbackfill-libvirt -lbackfill
-lvirt"

head -c 4M /dev/urandom >"$dir/golden.img"
"$NBDKIT" -f -U "$dir/golden.sock" file "$dir/golden.img" &
pids="$pids $!"

# One server with a disk for each page, so that none is in another's way.
pages=
for pod in "$TOP_SRCDIR"/docs/*.pod; do
  grep -q '^ #include <backfill' "$pod" || continue
  page=$(basename "$pod" .pod)
  # The section's verbatim part, without the blank before each line.
  sed -n '/^=head1 EXAMPLE$/,/^=head1 SEE ALSO/p' "$pod" |
    sed -n '/^ #include/,$p' | sed '/^=head1/,$d; s/^ //' >"$dir/$page.c"
  [ -s "$dir/$page.c" ] || { echo "$page has no example"; exit 1; }
  pages="$pages $page"
done
set -- $pages
echo "$# pages"
[ $# -ge 20 ]

# target N: vdaa, vdab, ...
target () {
  local letters=abcdefghijklmnopqrstuvwxyz
  echo "vd${letters:$(($1 / 26)):1}${letters:$(($1 % 26)):1}"
}

keys=
disks=
n=0
for page in $pages; do
  n=$((n + 1))
  keys="$keys name=$page store=$dir/$page.img
    backing=nbd+unix:///?socket=$dir/golden.sock"
  disks="$disks<disk type='network' device='disk'><driver name='qemu' type='raw'/>
    <source protocol='nbd' name='$page'><host transport='unix'
    socket='$dir/nbd.sock'/></source><target dev='$(target $n)'
    bus='virtio'/></disk>"
done
while [ ! -S "$dir/golden.sock" ]; do sleep 0.1; done
# shellcheck disable=SC2086
"$NBDKIT" -f -U "$dir/nbd.sock" "$BACKFILL_PLUGIN" $keys 2>"$dir/log" &
server=$!
pids="$pids $server"
until backfill -c "nbd:$dir/nbd.sock" list >/dev/null 2>&1; do
  kill -0 $server || { cat "$dir/log"; exit 1; }
  sleep 0.1
done
mkdir "$dir/volumes" "$dir/state"
backfilld --runtime-dir="$dir/run" --state-dir="$dir/state" "$dir/volumes" \
  >"$dir/daemon-log" 2>&1 &
daemon=$!
pids="$pids $daemon"
until [ -S "$dir/run/backfilld.sock" ]; do
  kill -0 $daemon || { cat "$dir/daemon-log"; exit 1; }
  sleep 0.1
done
cat >"$dir/node.xml" <<END
<node><domain type='test'><name>g1</name><memory>65536</memory>
<os><type>hvm</type></os><devices>$disks</devices></domain></node>
END
LIBVIRT_DEFAULT_URI=test://$dir/node.xml
export LIBVIRT_DEFAULT_URI

# expect PAGE PATTERN ARG...: run it, and look at what it prints.
expect () {
  local page=$1 pattern=$2 libs=-lbackfill
  shift 2
  case $page in
    *_vir* | *-libvirt)
      [ "$HAVE_LIBVIRT" = yes ] || return 0
      libs=$libvirt_libs ;;
  esac
  # shellcheck disable=SC2086
  $cc $flags "$dir/$page.c" -o "$dir/$page" $libs
  "$dir/$page" "$@" >"$dir/out" 2>&1 || {
    echo "$page: exit status $?:"; cat "$dir/out"; exit 1
  }
  [ -z "$pattern" ] || grep -q -- "$pattern" "$dir/out" || {
    echo "$page: no '$pattern' in:"; cat "$dir/out"; exit 1
  }
  echo "$page: ok"
}

# A job that goes on for as long as the page needs it.
start () {
  backfill allocate --speed 64k "$dir/$1.img" >/dev/null
}

for page in $pages; do
  store=$dir/$page.img
  case $page in
    backfill_connect) expect $page '' "nbd:$dir/nbd.sock" ;;
    backfill_set_timeout) expect $page "$store answers" "$store" ;;
    backfill_get_error) expect $page 'nothing to abort' "$store" ;;
    backfill_block_allocate)
      expect $page '^4194304 of 4194304 bytes$' "$store" ;;
    backfill_block_get_job_info)
      expect $page '^no job$' "$store"
      start $page
      expect $page ' bytes to go$' "$store" ;;
    backfill_block_abort_job)
      start $page
      expect $page ' of 4194304 bytes are local$' "$store" ;;
    backfill_block_get_allocation_map)
      backfill allocate --wait --quiet --offset 1M --length 1M "$store"
      expect $page '^1048576 1048576$' "$store" ;;
    backfill_block_get_state_map)
      backfill allocate --wait --quiet --offset 1M --length 1M "$store"
      expect $page '^3145728 bytes are absent$' "$store" ;;
    backfill_block_wait_job) expect $page '^all of it is local$' "$store" ;;
    backfill_block_set_speed)
      start $page
      expect $page '' "$store"
      [ "$(backfill info --json "$store" | sed -n 's/^ *"speed": //p')" = \
        52428800, ] ;;
    backfill_block_pause_job)
      start $page
      expect $page '' "$store" ;;
    backfill_block_dismiss_job)
      expect $page '' "$store"
      backfill info "$store" | grep -q '^job  *none' ;;
    backfill_list_disks)
      expect $page "$store: 0 of 4194304 bytes are local" ;;
    backfill_get_disk_info)
      expect $page "$store: backing store .*golden.sock" "$store" ;;
    backfill_create_volume)
      expect $page '' "$dir/volumes/$page.img" \
        "nbd+unix:///?socket=$dir/golden.sock"
      cmp "$dir/golden.img" "$dir/volumes/$page.img" ;;
    backfill_disk_flush) expect $page '' "$store" ;;
    backfill_disk_detach)
      expect $page '' "$store"
      backfill info "$store" | grep -q detached ;;
    backfill_events_open)
      expect $page "^$page BLOCK_JOB_COMPLETED\$" "$store" ;;
    backfill_command) expect $page "\"store\":\"$store\"" ;;
    backfill_version) expect $page '^libbackfill [0-9]' ;;
    libbackfill)
      expect $page '' "$store"
      cmp "$dir/golden.img" "$store" ;;

    libbackfill-libvirt)
      expect $page '4194304 of 4194304 bytes' g1 $page ;;
    backfill_virDomainBlockAllocate) expect $page '' g1 $page ;;
    backfill_virDomainBlockGetJobInfo)
      start $page
      expect $page 'of 4194304 bytes' g1 $page ;;
    backfill_virDomainBlockAbortJob)
      start $page
      expect $page '' g1 $page
      [ "$HAVE_LIBVIRT" != yes ] || backfill info "$store" | grep -q aborted ;;
    backfill_virDomainBlockGetAllocationMap)
      backfill allocate --wait --quiet --offset 1M --length 1M "$store"
      expect $page '^1048576 1048576$' g1 $page ;;
    backfill_virDomainFindDisk) expect $page '' g1 $page ;;
    *) echo "$page has an example that is not run: add it here"; exit 1 ;;
  esac
done
