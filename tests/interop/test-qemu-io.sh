#!/bin/bash
# qemu-io: random scripts of all that it can do to a disk (plain, vectored and
# asynchronous writes of any alignment, zeroes, discards, FUA, flushes), with
# QEMU's cache modes.  The same script goes to a copy of the golden image, and
# both must hold the same in the end: while nothing is local, while the disk is
# filled in, and when all is.
#
#   SEEDS='1 2 3' COMMANDS=1000 test-qemu-io.sh
#
# SPDX-License-Identifier: LGPL-2.1-or-later
. "${0%/*}/interop-lib.sh"
need jq qemu-io mkfs.ext4
SEEDS=${SEEDS:-1 2}
COMMANDS=${COMMANDS:-150}

make_golden "$dir/golden" 24
truncate -s +1536 "$dir/golden"
size=$(stat -c %s "$dir/golden")
serve source -r file "$dir/golden"

# make_script SEED GRANULE: $dir/for.disk and $dir/for.truth.
make_script () {
  /usr/bin/python3 - "$1" "$2" "$COMMANDS" "$size" "$dir" <<'END2'
import random
import sys

seed, granule, commands, size = map(int, sys.argv[1:5])
folder = sys.argv[5]
rng = random.Random(seed)
disk = open(folder + "/for.disk", "w")
truth = open(folder + "/for.truth", "w")


def both(line):
    disk.write(line + "\n")
    truth.write(line + "\n")


def place():
    # Mostly in a few places, so that they meet; sometimes at the end.
    n = rng.choice((1, 3, 512, 1000, 4096, 6000, 8192, 65536, 200000))
    at = rng.choice((rng.randrange(size - n), rng.randrange(65536),
                     5 * 2**20 + rng.randrange(300000),
                     5 * 2**20 + rng.randrange(300000), size - n))
    if rng.random() < 0.3:
        at, n = at // 4096 * 4096, -(-n // 4096) * 4096
    return min(at, size - n), n


def inside(at, n):
    """The whole granules in it; the disk's last one may be short."""
    end = at + n if at + n == size else (at + n) // granule * granule
    return -(-at // granule) * granule, end


# What is in flight must not meet: the order is nobody's promise.
pending = []
for i in range(commands):
    at, n = place()
    sizes = [rng.randrange(1, 40) * 512 for _ in range(rng.randrange(1, 5))]
    if any(at < b and a < at + max(n, sum(sizes), granule)
           for a, b in pending) or len(pending) > 8:
        both("aio_flush")
        pending = []
    pattern = "-P %d" % rng.randrange(1, 255)
    fua = rng.choice(("", "", "-f "))
    trim = rng.choice(("", "-u "))
    kind = rng.randrange(9)
    if kind == 0:
        both("write -q %s%s %d %d" % (fua, pattern, at, n))
        both("read -q %s %d %d" % (pattern, at, n))
    elif kind == 1:
        both("write -q -z %s%s%d %d" % (fua, trim, at, n))
        both("read -q -P 0 %d %d" % (at, n))
    elif kind == 2:
        # Fast zeroes are refused where they need something fetched.
        a, b = inside(at, n)
        if a < b:
            disk.write("write -q -z -n %s%d %d\n" % (trim, a, b - a))
            truth.write("write -q -z %s%d %d\n" % (trim, a, b - a))
    elif kind == 3:
        # A trim zeroes the granules that it covers and leaves the others.
        disk.write("discard -q %d %d\n" % (at, n))
        a, b = inside(at, n)
        if a < b:
            truth.write("write -q -z %d %d\n" % (a, b - a))
    elif kind == 4:
        at = min(at, size - sum(sizes))
        if not any(at < b and a < at + sum(sizes) for a, b in pending):
            both("writev -q %s%s %d %s"
                 % (fua, pattern, at, " ".join(map(str, sizes))))
    elif kind < 7:
        both("aio_write -q %s%s %d %d"
             % (fua, rng.choice((pattern, "-z " + trim)), at, n))
        pending.append((at, at + n))
    elif kind == 7:
        both("aio_read -q %d %d" % (at, n))
        both("readv -q %d %d" % (at, n))
        pending.append((at, at + n))
    else:
        both("flush")
both("aio_flush")
both("flush")
END2
}

# run SEED GRANULE [OPTION ...]
run () {
  local seed=$1 granule=$2
  shift 2
  make_script "$seed" "$granule"
  qemu-io -f raw -d unmap "$@" "$(uri disk)" < "$dir/for.disk" \
    > "$dir/disk.log" 2>&1 ||
    fail "seed $seed, granule $granule: $(grep -v '^qemu-io>' "$dir/disk.log")"
  qemu-io -f raw "$dir/truth" < "$dir/for.truth" > "$dir/truth.log"
}

for seed in $SEEDS; do
  for granule in 4096 512 65536; do
    rm -f "$dir"/store* "$dir/truth"
    cp --sparse=always "$dir/golden" "$dir/truth"
    disk disk "$dir/store" backing="$(uri source)" granule=$granule
    run "${seed}1" $granule -t writeback
    cli disk allocate --speed 16M > /dev/null
    run "${seed}2" $granule -t none
    run "${seed}3" $granule -t writethrough
    finish_job disk
    run "${seed}4" $granule -t unsafe
    stop disk
    same "$dir/store" "$dir/truth" ||
      fail "seed $seed, granule $granule"
    say "seed $seed, granule $granule: the same"
  done
done

# --- what it refuses, and what it says of a disk ---

rm -f "$dir"/store*
disk disk "$dir/store" backing="$(uri source)"
# An edge that would have to be fetched is not fast.
must_fail qemu-io -f raw -c 'write -z -n 1000 4096' "$(uri disk)"
grep -q 'not supported' "$dir/out"
qemu-io -f raw -c 'write -z -n 1M 64k' -c 'read -P 0 1M 64k' "$(uri disk)" \
  > "$dir/qemu-io.log"
must_fail qemu-io -r -f raw -c 'write 0 512' "$(uri disk)"
must_fail qemu-io -f raw -c 'write 0 512' "$(uri disk map)"
# Trimmed and zeroed places never show the source again, however they meet.
at=$((5 << 20))
qemu-io -f raw -d unmap -c "discard $((at + 1)) 8190" \
  -c "discard $((at + 12288)) 4096" "$(uri disk)" > "$dir/qemu-io.log"
qemu-io -f raw -c "read -P 0 $((at + 12288)) 4096" "$(uri disk)" \
  > "$dir/qemu-io.log"
stop disk
disk disk "$dir/store" backing="$(uri source)"
qemu-io -f raw -c "read -P 0 $((at + 12288)) 4096" "$(uri disk)" \
  > "$dir/qemu-io.log"
stop disk
say "fast zeroes, read-only, trims"
