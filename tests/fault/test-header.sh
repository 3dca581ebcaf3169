# backfill.h on its own: in C99 and in C++, without a warning, and a program
# that is linked with what pkg-config would say.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -e

cc=${CC-cc}
cxx=${CXX-c++}
command -v "${cc%% *}" >/dev/null || { echo "no C compiler"; exit 77; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/use.c" <<'END'
#include <backfill.h>
#include <stdlib.h>

/* Every name that programs are promised. */
static int
use (struct backfill *h)
{
  struct backfill_job_info info;
  struct backfill_region *regions = NULL;
  unsigned n = 0;

  info.struct_size = sizeof info;
  if (backfill_block_allocate (h, "vda", 0, 0,
                               BACKFILL_ALLOCATE_NONBLOCK
                                   | BACKFILL_ALLOCATE_SPARSE) == -1
      || backfill_block_get_job_info (h, "vda", &info) == -1
      || backfill_block_abort_job (h, "vda") == -1
      || backfill_block_get_allocation_map (h, "vda", &n, &regions) == -1)
    return backfill_get_errno ();
  if (info.type == BACKFILL_JOB_NONE || info.type == BACKFILL_JOB_BOUNDED
      || info.type == BACKFILL_JOB_UNBOUNDED
      || info.type == BACKFILL_JOB_COMPLETED
      || info.type == BACKFILL_JOB_FAILED
      || info.type == BACKFILL_JOB_CANCELLED)
    n += (unsigned)(info.time_elapsed + info.time_remaining + info.data_total
                    + info.data_processed + info.data_remaining
                    + info.failed_offset)
         + (unsigned)info.errnum + (unsigned)info.error[0];
  if (regions != NULL)
    n += (unsigned)(regions[0].offset + regions[0].length);
  free (regions);
  return (int)n;
}

int
main (void)
{
  struct backfill *h = backfill_connect ("unix:/nonexistent/socket");

  if (h != NULL)
    return use (h);
  backfill_close (h);
  return backfill_get_error ()[0] != '\0' && BACKFILL_JOB_CANCELLED == 5
                 && BACKFILL_ALLOCATE_NONBLOCK == 1u
             ? 0
             : 1;
}
END
cp "$dir/use.c" "$dir/use.cc"

lib=$TOP_BUILDDIR/lib/.libs
# It is several words, and is split on purpose below.
flags="-I$TOP_SRCDIR/lib -Wall -Wextra -Werror"
if [ "$SANITIZER" != no ] && [ -n "$SANITIZER" ]; then
    flags="$flags -fsanitize=$SANITIZER"
fi
$cc -std=c99 -pedantic $flags "$dir/use.c" -o "$dir/use" -L"$lib" -lbackfill
LD_LIBRARY_PATH="$lib" "$dir/use"
echo "C99: ok"
if command -v "${cxx%% *}" >/dev/null; then
    $cxx -std=c++98 -pedantic -Wno-long-long $flags "$dir/use.cc" \
        -o "$dir/use++" -L"$lib" -lbackfill
    LD_LIBRARY_PATH="$lib" "$dir/use++"
    echo "C++: ok"
fi

# Nothing but the promised names is exported, each with its version.
nm -D --defined-only "$lib/libbackfill.so" | awk '$2 == "T" { print $3 }' |
    sed 's/@.*//' | sort >"$dir/exported"
sed -n 's/^ *\(backfill_[a-z_]*\);$/\1/p' "$TOP_SRCDIR/lib/libbackfill.syms" |
    sort >"$dir/promised"
diff "$dir/promised" "$dir/exported"
nm -D --defined-only --with-symbol-versions "$lib/libbackfill.so" |
    grep -q 'backfill_connect@@LIBBACKFILL_0.1$'
# And everything promised is declared.
while read -r name; do
    grep -q "$name (" "$TOP_SRCDIR/lib/backfill.h"
done <"$dir/promised"
echo "symbols: ok"
