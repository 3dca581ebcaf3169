# Two servers of one pid (in pid namespaces of their own, as in containers)
# that share a runtime folder, each with a command as its backing store: each
# reads its own.  The two images differ only where no sample is taken for
# their identity, as two builds of one image may.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -e

: "${NBDKIT:=nbdkit}"
unshare="unshare --pid --fork --kill-child=KILL"
[ "$(id -u)" = 0 ] || unshare="unshare -r --pid --fork --kill-child=KILL"
$unshare true 2>/dev/null || { echo "no pid namespace to be had"; exit 77; }
/usr/bin/python3 -c '' 2>/dev/null || { echo "no python3"; exit 77; }

dir=$(mktemp -d /tmp/bf-pid.XXXXXX)
pids=
end () {
    for p in $pids; do kill -KILL "$p" 2>/dev/null || true; done
    wait 2>/dev/null
    rm -rf "$dir"
}
trap end EXIT
trap 'exit 1' INT TERM

. "$(dirname "$0")/../lib/wait.sh"

mkdir "$dir/run"
/usr/bin/python3 - "$dir" <<'END_PYTHON'
import sys
size = 64 << 20
for name in "a", "b":
    with open("%s/%s.img" % (sys.argv[1], name), "wb") as f:
        for i in range(size >> 20):
            f.write(name.encode() * (1 << 20))
        for i in range(16):
            at = (size - 1) // 15 * i if i < 15 else size - 1
            f.seek(at // 4096 * 4096)
            f.write(bytes(4096))
END_PYTHON

for n in a b; do
    # shellcheck disable=SC2086
    $unshare "$NBDKIT" -f -U "$dir/$n.sock" -P "$dir/$n.pid" "$BACKFILL_PLUGIN" \
        "$dir/$n.disk" runtime-dir="$dir/run" control="$dir/$n.control" \
        backing="[ $NBDKIT file $dir/$n.img ]" 2>"$dir/$n.err" &
    pids="$pids $!"
    wait_for test -s "$dir/$n.pid" || { cat "$dir/$n.err"; exit 1; }
done
[ "$(cat "$dir/a.pid")" = "$(cat "$dir/b.pid")" ]

# The job's connections are made only now.
for n in a b; do
    backfill -c "$dir/$n.control" allocate --wait >"$dir/out" 2>&1 \
        || { cat "$dir/out" "$dir/$n.err"; exit 1; }
    cmp "$dir/$n.disk" "$dir/$n.img"
done
echo "each has its own: ok"
