# A backing store that fails a read now and then does not fail a job: when a
# range is tried granule by granule, each has its own attempts.  One granule
# that cannot be read still does.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu

dir=$(mktemp -d /tmp/bff-XXXXXX)
pids=

# The disk first, as nbdkit waits for its clients.  (And none is killed: the
# eval plugin would leave its files.)
end_all () {
  for pid in $pids; do
    kill "$pid" 2>/dev/null || :
    wait "$pid" 2>/dev/null || :
  done
  pids=
}

clean_up () {
  status=$?
  trap - EXIT
  end_all
  [ $status -eq 0 ] || tail -n 20 "$dir"/*.err
  rm -rf "$dir"
  exit $status
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

preload=
case "${SANITIZER-no}" in
  *address*) preload=$(${CC:-gcc} -print-file-name=libasan.so) ;;
  *thread*) preload=$(${CC:-gcc} -print-file-name=libtsan.so) ;;
esac

# start NAME ARG...
start () {
  name=$1
  shift
  "$@" 2>"$dir/$name.err" &
  pids="$! $pids"
  i=0
  while [ ! -s "$dir/$name.pid" ]; do
    kill -0 "$!" || exit 1
    i=$((i + 1))
    [ $i -lt 1200 ]
    sleep 0.1
  done
}

# Ten granules, which can only be read one by one and in order, and each of
# which fails once when its turn has come; granule $1 fails for ever.
make_source () {
  rm -f "$dir/source.pid" "$dir/source.sock"
  echo 0 >"$dir/turn"
  start source "$NBDKIT" -f -r -U "$dir/source.sock" -P "$dir/source.pid" eval \
    thread_model='echo serialize_all_requests' get_size='echo 40960' \
    pread="
      turn=\$(cat '$dir/turn')
      [ \$3 -eq 4096 ] && [ \$4 -eq \$((turn * 4096)) ] &&
        [ \$turn -ne $1 ] && [ -e '$dir/failed-'\$turn ] || {
        touch '$dir/failed-'\$turn
        echo EIO not yet >&2
        exit 1
      }
      echo \$((turn + 1)) >'$dir/turn'
      printf '%4096d' \$turn"
}

make_disk () {
  rm -f "$dir"/disk* "$dir"/failed-*
  start disk env ${preload:+LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0} \
    "$NBDKIT" -f -U "$dir/disk.sock" -P "$dir/disk.pid" \
    "$BACKFILL_PLUGIN" "$dir/disk" runtime-dir="$dir" identity=size \
    control="$dir/disk.control" backing="nbd+unix:///?socket=$dir/source.sock"
}

make_source 99
make_disk
backfill -c "$dir/disk.control" allocate --wait --quiet
for g in 0 1 2 3 4 5 6 7 8 9; do
  printf '%4096d' $g
done | cmp - "$dir/disk"
echo "each granule fails once: all is local"
end_all

make_source 7
make_disk
status=0
backfill -c "$dir/disk.control" allocate --wait --quiet 2>"$dir/out" || status=$?
[ $status -eq 3 ]
# What came before it stays.
backfill -c "$dir/disk.control" info --json |
  tr ',{}' '\n\n\n' >"$dir/info"
grep -qx ' *"local": *28672' "$dir/info"
grep -qx ' *"failed-offset": *28672' "$dir/info"
echo "one that cannot be read: the job fails there"
