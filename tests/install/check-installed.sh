#!/bin/bash
# check-installed.sh ROOT PREFIX: is what `make install DESTDIR=ROOT` has put
# there all right?  ROOT is empty if there was no DESTDIR.
#
# Every file is looked at where it is, and used from there: the units by
# systemd, the pages by man, the library by a compiler, the plugin by nbdkit.
# Nothing of the build is needed, nor looked at.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -u
root=${1%/} prefix=$2
there=$root$prefix
PATH=$PATH:/usr/sbin:/sbin
tmp=$(mktemp -d /tmp/bin-XXXXXX)
failed=0
pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || :; rm -rf "$tmp"' EXIT

fail () {
  failed=$((failed + 1))
  echo "FAILED: $*"
}

have () {
  command -v "$1" > /dev/null || { echo "no $1: not looked at"; return 1; }
}

# find_one NAME: where it is, below ROOT.
find_one () {
  find "$there" -name "$1" ! -type d | head -n 1
}

library=$(find_one libbackfill.so)
libdir=${library%/*}
plugin=$(find_one nbdkit-backfill-plugin.so)
backfill=$there/bin/backfill
daemon=$there/sbin/backfilld
for file in "$library" "$plugin" "$backfill" "$daemon"; do
  [ -e "$file" ] || { fail "not all is there: $(find "$there" | head -n 50)"; exit 1; }
done

# "${installed[@]}" COMMAND...: with what is installed, and nothing else of
# this test's.
installed=(env -i "PATH=$there/bin:$there/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
  "LD_LIBRARY_PATH=$libdir" "HOME=$tmp" LC_ALL=C.UTF-8
  "BACKFILL_RUNTIME_DIR=$tmp/run")

is_elf () {
  [ "$(head -c 4 "$1" | tr -d '\0')" = $'\x7fELF' ]
}

files () {
  local file name mode
  # What somebody should have filled in, and has not.
  while IFS= read -r -d '' file; do
    name=${file#"$root"}
    mode=$(stat -c %a "$file")
    case "$name" in
      */bin/* | */sbin/* | */libvirt-hook | *.so.*.*.* | *.la | *plugin.so)
        [ "$mode" = 755 ] || fail "$name has mode $mode" ;;
      *)
        [ "$mode" = 644 ] || fail "$name has mode $mode" ;;
    esac
    if is_elf "$file"; then
      objcopy --strip-debug "$file" "$tmp/stripped"
      file=$tmp/stripped
      ! readelf -d "$file" | grep -E 'RPATH|RUNPATH' | grep -vF "[$libdir_there]" ||
        fail "$name looks for libraries where they are not"
      case "$libdir_there" in
        # The loader finds these anyway.
        /usr/lib | /usr/lib/*-linux-gnu* | /usr/local/lib | /lib)
          ! readelf -d "$file" | grep -E 'RPATH|RUNPATH' || fail "$name: rpath" ;;
      esac
      ! "${installed[@]}" ldd "$file" | grep 'not found' || fail "$name"
    else
      ! grep -nE '@[A-Za-z_]+@' "$file" || fail "$name: is not filled in"
    fi
    ! grep -qF -e "$TOP_BUILDDIR" -e "$TOP_SRCDIR" "$file" ||
      fail "$name names the folder that it was built in"
  done < <(find "$there" -type f -path '*backfill*' -print0)
  echo "files"
}

units () {
  local unit units command
  units=$(find "$there" -name 'backfilld.service')
  [ -n "$units" ] || { fail "no units"; return; }
  units=${units%/*}
  command=$(sed -n 's/^ExecStart=\([^ ]*\).*/\1/p' "$units/backfilld.service")
  [ "$root$command" -ef "$daemon" ] ||
    fail "backfilld.service starts $command, which is not there"
  "${installed[@]}" "$root$command" --version | grep -q '^backfilld ' ||
    fail "$command does not run"
  for unit in backfilld.service nbdkit-backfill@.service; do
    grep -q '^Restart=on-failure' "$units/$unit" ||
      fail "$unit: not started again after a crash"
  done
  for unit in backfilld.service backfilld.socket nbdkit-backfill@.service \
    nbdkit-backfill@.socket; do
    sed -n 's/^Documentation=man:\(.*\)(\(.\))/man\2\/\1.\2/p' "$units/$unit" |
      while read -r page; do
        [ -e "$there/share/man/$page" ] || echo "$unit: no $page"
      done
  done > "$tmp/out"
  [ ! -s "$tmp/out" ] || fail "$(cat "$tmp/out")"

  # A disk's: nbdkit is in the PATH, and finds the plugin by its name or path.
  command=$(sed -n 's/^ExecStart=nbdkit -f $NBDKIT_OPTIONS \([^ ]*\) .*/\1/p' \
    "$units/nbdkit-backfill@.service")
  [ "$command" = backfill ] || [ "$root$command" -ef "$plugin" ] ||
    fail "nbdkit-backfill@.service names the plugin $command"

  if have systemd-analyze; then
    mkdir "$tmp/units"
    # As they are, but for the place that DESTDIR gave them.
    sed "s,^ExecStart=/,ExecStart=$root/," "$units/backfilld.service" \
      > "$tmp/units/backfilld.service"
    cp "$units/backfilld.socket" "$tmp/units/"
    systemd-analyze verify --man=no "$tmp/units/backfilld.service" \
      "$tmp/units/backfilld.socket" > "$tmp/out" 2>&1 || fail "$(cat "$tmp/out")"
    ! grep -E 'backfilld\.(service|socket)' "$tmp/out" || fail "systemd complains"
    for unit in service socket; do
      cp "$units/nbdkit-backfill@.$unit" "$tmp/units/nbdkit-backfill@vm1.$unit"
    done
    systemd-analyze verify --man=no "$tmp/units/nbdkit-backfill@vm1.service" \
      "$tmp/units/nbdkit-backfill@vm1.socket" > "$tmp/out" 2>&1 ||
      fail "$(cat "$tmp/out")"
    ! grep -F nbdkit-backfill@ "$tmp/out" || fail "systemd complains"
    # 10 is no protection at all; 2.3 is what a daemon that must write other
    # users' files, and be these users, can have.
    for unit in backfilld=23 nbdkit-backfill@vm1=14; do
      systemd-analyze security --offline=true --threshold="${unit#*=}" \
        "$tmp/units/${unit%=*}.service" > "$tmp/out" 2>&1 || fail "$(cat "$tmp/out")"
      tail -n 1 "$tmp/out" | cat
    done
    # These two would take the peers' uids, and the boot's id.
    ! grep -E '^(PrivateUsers|ProcSubset)=' "$tmp"/units/* || fail "too hardened"
  fi
  echo "units"
}

# What the unit starts is served on the socket that systemd made.
activation () {
  local activate i status=0
  have systemd-socket-activate || return
  activate=$(command -v systemd-socket-activate)
  mkdir -p "$tmp/w/vols" "$tmp/w/run" "$tmp/w/state"
  "${installed[@]}" BACKFILL_RUNTIME_DIR="$tmp/w/run" \
    "$activate" -l "$tmp/w/run/backfilld.sock" -E LD_LIBRARY_PATH -E PATH \
    -E BACKFILL_RUNTIME_DIR \
    "$daemon" --runtime-dir="$tmp/w/run" --state-dir="$tmp/w/state" --idle=1 \
    "$tmp/w/vols" > "$tmp/log" 2>&1 < /dev/null &
  pid=$!
  for ((i = 0; i < 100; i++)); do
    [ ! -S "$tmp/w/run/backfilld.sock" ] || break
    sleep 0.1
  done
  "${installed[@]}" BACKFILL_RUNTIME_DIR="$tmp/w/run" sh -e -c '
    backfill create "$1/vols/a.img" --size 1M
    backfill allocate "$1/vols/a.img" --full --wait' sh "$tmp/w" > "$tmp/out" 2>&1 ||
    fail "$(cat "$tmp/out" "$tmp/log")"
  [ "$(stat -c %b "$tmp/w/vols/a.img")" -ge 2048 ] || fail "not allocated"
  kill "$pid"
  wait "$pid" || status=$?
  pid=
  # It was systemd's, and stays.
  [ -S "$tmp/w/run/backfilld.sock" ] || fail "the socket is gone"
  [ "$status" -eq 0 ] || fail "backfilld ends with $status: $(cat "$tmp/log")"
  echo "socket activation"
}

# The folders are made with the modes and owners that the file says.
tmpfiles () {
  local conf type path mode user group
  have systemd-tmpfiles || return
  [ "$(id -u)" -eq 0 ] || return 0
  conf=$(find "$there" -path '*tmpfiles.d/backfill.conf')
  [ -n "$conf" ] || { fail "no tmpfiles.d/backfill.conf"; return; }
  mkdir -p "$tmp/root/etc"
  cp /etc/passwd /etc/group "$tmp/root/etc/"
  systemd-tmpfiles --create --root="$tmp/root" "$conf" > "$tmp/out" 2>&1 ||
    fail "$(cat "$tmp/out")"
  [ ! -s "$tmp/out" ] || fail "$(cat "$tmp/out")"
  grep -E '^[a-z]' "$conf" > "$tmp/lines" || fail "$conf makes nothing"
  while read -r type path mode user group _; do
    [ "$(stat -c '%04a %U %G' "$tmp/root$path")" = \
      "$(printf '%04d' "${mode#0}") $user $group" ] ||
      fail "$type $path is $(stat -c '%a %U %G' "$tmp/root$path")"
  done < "$tmp/lines"
  echo "tmpfiles.d"
}

# Programs of others, in C and C++.
programs () {
  local name compiler version
  version=$("${installed[@]}" backfill --version | sed 's/.* //')
  PKG_CONFIG_PATH=$libdir/pkgconfig
  # A prefix of its own needs no help; below DESTDIR paths are not the last.
  if [ -n "$root" ]; then
    PKG_CONFIG_SYSROOT_DIR=$root
    PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
    PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
    export PKG_CONFIG_SYSROOT_DIR
    export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS PKG_CONFIG_ALLOW_SYSTEM_LIBS
  fi
  export PKG_CONFIG_PATH
  have pkg-config || return
  cat > "$tmp/use.c" <<'C'
#include <backfill.h>
#include <stdio.h>
int
main (void)
{
  printf ("%s\n", backfill_version ());
  return backfill_connect ("unix:/nonexistent") != NULL;
}
C
  cp "$tmp/use.c" "$tmp/use.cc"
  cat > "$tmp/use-libvirt.c" <<'C'
#include <backfill-libvirt.h>
int
main (void)
{
  return backfill_virDomainBlockAbortJob (0, "vda") != -1;
}
C
  cp "$tmp/use-libvirt.c" "$tmp/use-libvirt.cc"
  for name in libbackfill libbackfill-libvirt; do
    if [ $name = libbackfill-libvirt ] && [ "$HAVE_LIBVIRT" != yes ]; then
      continue
    fi
    [ "$(pkg-config --modversion $name)" = "$version" ] ||
      fail "$name.pc: version $(pkg-config --modversion $name)"
    for compiler in cc:c c++:cc; do
      have "${compiler%:*}" || continue
      # shellcheck disable=SC2046
      "${compiler%:*}" -Wall -Werror $(pkg-config --cflags $name) -o "$tmp/use" \
        "$tmp/use${name#libbackfill}.${compiler#*:}" $(pkg-config --libs $name) ||
        { fail "$name: ${compiler%:*}"; continue; }
      "${installed[@]}" "$tmp/use" > "$tmp/out" 2>&1 || fail "$name: $(cat "$tmp/out")"
      "${installed[@]}" ldd "$tmp/use" | grep -q " $libdir/$name.so.0 " ||
        fail "$name: another is used"
    done
  done
  unset "${!PKG_CONFIG_@}"
  echo "programs"
}

# All that is exported has a version; the plugin exports what nbdkit looks for.
symbols () {
  local file
  for file in "$libdir"/libbackfill*.so; do
    nm -D --defined-only --with-symbol-versions "$file" | grep -v ' A ' > "$tmp/out"
    grep -q ' T backfill_.*@@\?LIB' "$tmp/out" || fail "$file exports nothing"
    ! grep -v '@' "$tmp/out" || fail "$file: without a version"
  done
  nm -D --defined-only "$plugin" | grep -v ' A ' | sed 's/.* //; s/@.*//' |
    grep -v '^backfill_debug_' > "$tmp/out"
  [ "$(cat "$tmp/out")" = plugin_init ] || fail "the plugin exports $(cat "$tmp/out")"
  echo "symbols"
}

pages () {
  local page name section
  have man || return
  while IFS= read -r page; do
    name=${page##*/}
    section=${name##*.}
    name=${name%.*}
    # By its name, as a user asks, and not only the file.
    "${installed[@]}" MANPATH="$there/share/man" MANWIDTH=160 \
      man "$section" "$name" > "$tmp/text" 2> "$tmp/out" ||
      fail "man $section $name: $(cat "$tmp/out")"
    [ ! -s "$tmp/out" ] || fail "man $section $name: $(cat "$tmp/out")"
    sed -n '/^NAME/,/^[A-Z]*$/p' "$tmp/text" | grep -qw -e "$name" ||
      fail "man $section $name: not in its NAME"
    # Pages of ours that it names.
    grep -oE '\b(lib|nbdkit-)?backfilld?[-_A-Za-z]*\([1-8]\)' "$tmp/text" |
      sort -u | sed 's/\(.*\)(\(.\))/man\2\/\1.\2/' |
      while read -r other; do
        [ -e "$there/share/man/$other" ] || echo "$other"
      done > "$tmp/out"
    # (Not built, without libvirt.)
    [ "$HAVE_LIBVIRT" = yes ] || sed -i '/libvirt\|_vir/d' "$tmp/out"
    [ ! -s "$tmp/out" ] || fail "$name($section) names $(cat "$tmp/out")"
  done < <(find "$there/share/man" \( -type f -o -type l \) -name '*backfill*')
  echo "$(find "$there/share/man" -name '*backfill*' ! -type d | wc -l) pages"
  # Each function that is promised has one.
  grep -ohE '\bbackfill_[a-zA-Z_]+ \(' "$there"/include/backfill*.h | sort -u |
    while read -r name _; do
      [ -e "$there/share/man/man3/$name.3" ] || echo "$name"
    done > "$tmp/out"
  [ ! -s "$tmp/out" ] || fail "no page for $(cat "$tmp/out")"
  # All files that the pages say are in this prefix.
  find "$there/share/man" -type f -name '*backfill*' -exec cat {} + |
    sed 's/\\-/-/g; s/\\f.//g' | grep -oE "$prefix/share/backfill/[-a-z]+" |
    sort -u > "$tmp/out"
  [ -s "$tmp/out" ] || fail "the pages do not say where the hook is"
  while read -r file; do
    [ -e "$root$file" ] || fail "the pages name $file"
  done < "$tmp/out"
}

completion () {
  local file=$there/share/bash-completion/completions/backfill
  [ -e "$file" ] || { fail "no $file"; return; }
  # As bash-completion loads it, and bash calls it.
  "${installed[@]}" bash --norc -e -c '
    . "$1"
    complete -p backfill > /dev/null
    compopt () { :; }
    COMP_WORDS=(backfill pau) COMP_CWORD=1 COMP_LINE="backfill pau"
    COMP_POINT=${#COMP_LINE} COMPREPLY=()
    _backfill backfill pau backfill
    echo "${COMPREPLY[*]}"' bash "$file" > "$tmp/out" 2>&1 || fail "$(cat "$tmp/out")"
  [ "$(tr -d ' ' < "$tmp/out")" = pause ] || fail "completion: $(cat "$tmp/out")"
  echo "completion"
}

# The binding finds the library that was installed with it.
python () {
  local package
  [ "$HAVE_PYTHON" = yes ] || { echo "no Python"; return; }
  package=$(find "$there" -path '*-packages/backfill' -type d)
  [ -n "$package" ] || { fail "no binding for Python"; return; }
  "${installed[@]}" PYTHONPATH="${package%/*}" python3 -B -c '
import backfill, sys
print(backfill.__file__, backfill.version())
try:
    backfill.Connection("unix:/nonexistent")
except backfill.BackfillError as e:
    print(e)' > "$tmp/out" 2>&1 || fail "$(cat "$tmp/out")"
  grep -qF "$package/__init__.py $("${installed[@]}" backfill --version | sed 's/.* //')" \
    "$tmp/out" && grep -q /nonexistent "$tmp/out" || fail "$(cat "$tmp/out")"
  echo "Python"
}

hook () {
  local hook
  hook=$(find_one libvirt-hook)
  [ -x "$hook" ] || { fail "no hook"; return; }
  have python3 || return
  # Installed as its manual says: a domain that is not Backfill's is no matter.
  install -D "$hook" "$tmp/hooks/qemu.d/backfill"
  echo '<domain><name>a</name><uuid>0</uuid></domain>' |
    "${installed[@]}" "$tmp/hooks/qemu.d/backfill" a prepare begin - > "$tmp/out" 2>&1 ||
    fail "the hook: $(cat "$tmp/out")"
  [ ! -s "$tmp/out" ] || fail "the hook says: $(cat "$tmp/out")"
  echo "hook"
}

# A disk by the installed plugin and command.
disk () {
  local own
  have nbdkit || return
  own=$(nbdkit --dump-config | sed -n 's/^plugindir=//p')
  [ "$prefix" != /usr ] || [ "$root$own" -ef "${plugin%/*}" ] ||
    fail "nbdkit looks for plugins in $own"
  mkdir -p "$tmp/run"
  "${installed[@]}" nbdkit --dump-plugin "$plugin" | grep -q '^backfill_keys=.*backing' ||
    fail "nbdkit cannot load the plugin"
  (
    cd "$tmp" || exit 1
    seq 300000 | head -c 1M > golden
    "${installed[@]}" nbdkit -r -U - file golden --run '
      nbdkit -U - "'"$plugin"'" store backing="$uri" control="'"$tmp"'/control" --run "
        backfill -c '"$tmp"'/control list &&
        backfill -c '"$tmp"'/control allocate --wait &&
        backfill -c '"$tmp"'/control detach"'
  ) > "$tmp/out" 2>&1 || fail "a disk: $(cat "$tmp/out")"
  cmp "$tmp/golden" "$tmp/store" || fail "$(cat "$tmp/out")"
  [ ! -e "$tmp/store.backfill" ] || fail "the sidecar is left"
  echo "a disk"
}

libdir_there=${libdir#"$root"}
files
units
activation
tmpfiles
programs
symbols
pages
completion
python
hook
disk
[ "$failed" -eq 0 ] || { echo "$failed failed"; exit 1; }
echo "all that is installed is all right"
