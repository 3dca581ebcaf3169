# The headers, alone and together, in C and in C++, without a warning; programs
# that are built with what pkg-config says of an installed library; and what the
# libraries export: what is promised, with its version, declared and described.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -e

cc=${CC-cc}
cxx=${CXX-c++}
command -v "${cc%% *}" >/dev/null || { echo "no C compiler"; exit 77; }
command -v pkg-config >/dev/null || { echo "no pkg-config"; exit 77; }
# A library that is linked with a sanitizer's runtime is not for others.
[ "${SANITIZER:-no}" = no ] || { echo "not with sanitizers"; exit 77; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Where an installed library would be.
(unset MAKEFLAGS MFLAGS MAKELEVEL
 make -s -C "$TOP_BUILDDIR/lib" install DESTDIR="$dir/root") >"$dir/log" 2>&1 ||
  { cat "$dir/log"; exit 1; }
pc=$(find "$dir/root" -name libbackfill.pc)
PKG_CONFIG_SYSROOT_DIR=$dir/root
PKG_CONFIG_PATH=${pc%/*}
PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
export PKG_CONFIG_SYSROOT_DIR PKG_CONFIG_PATH
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS PKG_CONFIG_ALLOW_SYSTEM_LIBS
libdir=$(dirname "${pc%/*}")
echo "installed: ok"

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
cat >"$dir/use-libvirt.c" <<'END'
#include <backfill-libvirt.h>
#include <stdlib.h>

int
main (void)
{
  struct backfill_region *regions = NULL;
  virDomainJobInfo info;
  char *uri = NULL, *disk = NULL;
  unsigned int n = 0;

  /* Each gets a domain or a volume that is none. */
  return backfill_virDomainBlockAllocate (NULL, "vda", 0ull, 0ull,
                                          BACKFILL_ALLOCATE_NONBLOCK) == -1
                 && backfill_virDomainBlockGetJobInfo (NULL, "vda", &info) == -1
                 && backfill_virDomainBlockAbortJob (NULL, "vda") == -1
                 && backfill_virDomainBlockGetAllocationMap (NULL, "vda", &n,
                                                             &regions) == -1
                 && backfill_virStorageVolAllocate (NULL, 0ull, 0ull, 0u) == -1
                 && backfill_virStorageVolGetJobInfo (NULL, &info) == -1
                 && backfill_virStorageVolAbortJob (NULL) == -1
                 && backfill_virStorageVolGetAllocationMap (NULL, &n,
                                                            &regions) == -1
                 && backfill_virDomainFindDisk (NULL, "vda", &uri, &disk) == -1
                 && backfill_virStorageVolFindDisk (NULL, &uri, &disk) == -1
             ? 0
             : 1;
}
END

# check_library LIBRARY HEADER MAP PROGRAM
check_library () {
  local library=$1 header=$2 map=$3 program=$4 flags std
  # They are several words, and are split on purpose below.
  flags="$(pkg-config --cflags "$library") -Wall -Wextra -Werror -pedantic"
  printf '#include <%s>\n#include <%s>\n' "$header" "$header" >"$dir/alone.c"
  cp "$dir/alone.c" "$dir/alone.cc"
  for std in c99 c11 gnu17; do
    $cc -std=$std $flags -fsyntax-only "$dir/alone.c"
  done
  echo "$header alone, C: ok"
  $cc -std=c99 $flags "$dir/$program.c" -o "$dir/use" \
    $(pkg-config --libs "$library")
  LD_LIBRARY_PATH="$libdir" "$dir/use" 2>/dev/null
  echo "$library by pkg-config, C: ok"
  if command -v "${cxx%% *}" >/dev/null; then
    for std in c++98 c++11 c++20; do
      $cxx -std=$std -Wno-long-long -Wno-variadic-macros $flags \
        -fsyntax-only "$dir/alone.cc"
    done
    cp "$dir/$program.c" "$dir/use.cc"
    $cxx -std=c++98 -Wno-long-long -Wno-variadic-macros $flags "$dir/use.cc" \
      -o "$dir/use" $(pkg-config --libs "$library")
    LD_LIBRARY_PATH="$libdir" "$dir/use" 2>/dev/null
    echo "$library, C++: ok"
  fi

  readelf -d "$libdir/$library.so" | grep -q "SONAME.*\[$library\.so\.0\]"
  # What is exported is what the map says, version by version.
  nm -D --defined-only --with-symbol-versions "$libdir/$library.so" |
    awk '$2 == "T" { sub ("@+", " ", $3); print $3 }' | sort >"$dir/exported"
  awk '/^LIB/ { node = $1 } /^    backfill_.*;/ { sub (";", "", $1); print $1, node }' \
    "$map" | sort >"$dir/promised"
  diff "$dir/promised" "$dir/exported"
  # What is promised to others is declared and has a page; the rest has not.
  while read -r name node; do
    case $node in
      *_PRIVATE)
        ! grep -qw "$name" "$dir/root/$(cd "$dir/root" &&
                                        find . -name "$header")" ||
          { echo "$name is private, and in $header"; exit 1; } ;;
      *)
        grep -q "$name (" "$dir/root/$(cd "$dir/root" &&
                                       find . -name "$header")" ||
          { echo "$name is not in $header"; exit 1; }
        sed -n '/^=head1 NAME/{n;n;p}' "$TOP_SRCDIR"/docs/*.pod | sed 's/ - .*//' |
          tr -d ',' | tr ' ' '\n' | grep -qx "$name" ||
          { echo "$name has no manual page"; exit 1; } ;;
    esac
  done <"$dir/promised"
  echo "$library: $(grep -cv _PRIVATE "$dir/promised") symbols: ok"
}

check_library libbackfill backfill.h "$TOP_SRCDIR/lib/libbackfill.syms" use
if [ "$HAVE_LIBVIRT" = yes ]; then
  check_library libbackfill-libvirt backfill-libvirt.h \
    "$TOP_SRCDIR/lib/libvirt/libbackfill-libvirt.syms" use-libvirt
fi
