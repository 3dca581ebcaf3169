# common.sh - what quickstart and test share: packages, and a build in ./build.
#
# The source tree is left as it is: its files are copied to build/src, and
# autoreconf, configure and make work from there.  Sourced with `top` set to
# the top of the source tree.
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=sh

build_packages="autoconf automake gcc libc6-dev libev-dev libjansson-dev
libnbd-dev libssl-dev libtool make nbdkit nbdkit-plugin-dev perl pkg-config"

die () {
  echo "${0##*/}: $*" >&2
  exit 1
}

# missing PACKAGE...: those of them that are not installed.
missing () {
  for package; do
    case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in
      *" installed") ;;
      *) printf ' %s' "$package" ;;
    esac
  done
}

# install_packages PACKAGE...: make sure that they are there; 1 if they are not.
install_packages () {
  if ! command -v dpkg-query >/dev/null; then
    echo "This is not Debian: make sure that you have $*" >&2
    return 0
  fi
  lacking=$(missing "$@")
  [ -n "$lacking" ] || return 0
  sudo=
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "As root: apt-get install$lacking" >&2
      return 1
    }
    sudo=sudo
  fi
  echo "Installing:$lacking"
  # shellcheck disable=SC2086
  $sudo apt-get -qq update >&2 &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
      --no-install-recommends $lacking >&2
}

# unpack_dependency PACKAGE FOLDER: unpack what that package stands for (the
# one that it depends on) into a folder, and do not install it.
unpack_dependency () {
  [ ! -e "$2/done" ] || return 0
  command -v apt-get >/dev/null || return 1
  real=$(apt-cache depends --important "$1" 2>/dev/null |
           sed -n 's/^ *Depends: *//p' | head -n 1)
  [ -n "$real" ] || return 1
  rm -rf "$2"
  mkdir -p "$2"
  (cd "$2" && apt-get -qq download "$real" >/dev/null 2>&1 &&
     dpkg -x "$real"_*.deb . && rm "$real"_*.deb && : >done)
}

# debian_sources SUITE: this machine's sources of Debian's own packages, one a line,
# with the suite exchanged.
debian_sources () {
  own=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
  apt-get indextargets --format '$(RELEASE) $(REPO_URI) $(COMPONENT)' \
      'Created-By: Packages' | sort -u |
    while read -r release uri component; do
      part=-${release#*-}
      [ "$part" != "-$release" ] || part=
      case "$1$part" in
        sid-* | unstable-*) continue ;; # has no updates
      esac
      case "${release%%-*}" in
        "$own" | stable | oldstable | testing | unstable | sid)
          echo "deb $uri $1$part $component"
          ;;
      esac
    done
}

# make_chroot SUITE FOLDER [OPTION...]: by mmdebstrap, from the sources on stdin.
make_chroot () {
  suite=$1
  folder=$2
  shift 2
  # What a machine needs to reach them.
  proxies=$(apt-config dump | grep -i '^Acquire::https\?::Proxy' || :)
  unshare --mount --propagation private \
    mmdebstrap --mode=root ${proxies:+--aptopt="$proxies"} "$@" "$suite" \
      "$folder" -
}

# The files of the project, without what a build in the tree made.
list_files () {
  git ls-files -z --cached --others --exclude-standard 2>/dev/null ||
    find . \( -path ./build -o -path ./.git -o -name .libs -o -name .deps \) \
      -prune -o -type f ! -name '*.o' ! -name '*.lo' ! -name '*.la' \
      ! -name config.status ! -name Makefile ! -name config.h -print0
}

# Copy the source to build/src, with its times, so that a second build only
# makes what changed.  What is no more is taken away: make finds the tests by
# their names.
copy_source () {
  list=$top/build/src.files
  [ -f "$list" ] || rm -rf "$top/build/src"
  mkdir -p "$top/build/src"
  (cd "$top" && list_files) | tr '\0' '\n' | sort > "$list.new"
  [ ! -f "$list" ] || comm -23 "$list" "$list.new" |
    (cd "$top/build/src" && tr '\n' '\0' | xargs -0 rm -f)
  mv "$list.new" "$list"
  (cd "$top" && list_files |
     tar -c --null --no-recursion --exclude=./build --exclude=build \
       --ignore-failed-read -T - 2>/dev/null) |
    tar -x -C "$top/build/src"
  if [ ! -x "$top/build/src/configure" ] ||
     [ -n "$(cd "$top/build/src" && find . \( -name Makefile.am \
              -o -name configure.ac \) -newer configure)" ]; then
    (cd "$top/build/src" && autoreconf -i) || return 1
  fi
}

# build_in NAME [CONFIGURE-OPTION...]: configure and make in build/NAME.
build_in () {
  dir=$top/build/$1
  shift
  mkdir -p "$dir"
  (
    cd "$dir" || exit 1
    if [ ! -f Makefile ] || [ ../src/configure -nt config.status ]; then
      ../src/configure -q "$@" || exit 1
    fi
    make -s -j"$(nproc)"
  )
}
