#!/bin/bash
# main-job.sh: in a chroot with the packages alone (test-packages.sh): a disk is
# created, filled in, compared and detached, by a server that is started as
# nbdkit-backfill@.service says; then one by backfilld.
# SPDX-License-Identifier: LGPL-2.1-or-later
set -eu
. /srv/wait.sh
cd /srv
trap 'status=$?; [ $status -eq 0 ] || tail -n 30 /srv/*.log; exit $status' EXIT

say () {
  echo "== $*"
}

unit_file () {
  dpkg -L "$1" | grep "systemd/system/$2\$"
}

# What was made at installation: the user, and the runtime directory where
# systemd-tmpfiles is (here /run is new).
getent passwd _backfill > /dev/null
getent group kvm > /dev/null
if command -v systemd-tmpfiles > /dev/null; then
  systemd-tmpfiles --create backfill.conf
else
  install -d -m 1777 /run/backfill
fi
[ "$(stat -c %a /run/backfill)" = 1777 ]

seq 3000000 | head -c 12M > golden
truncate -s 16M golden
nbdkit -f -r -i 127.0.0.1 file golden < /dev/null > golden.log 2>&1 &
wait_for nbdinfo nbd://127.0.0.1

# As systemd reads the unit: its settings, then those of the instance.
unit=$(unit_file nbdkit-plugin-backfill nbdkit-backfill@.service)
socket_unit=$(unit_file nbdkit-plugin-backfill nbdkit-backfill@.socket)
of () { # KEY FILE
  sed -n "s/^$1=//p" "$2" | sed 's/%i/vm1/g'
}
mkdir -p /etc/backfill
echo 'KEYS="backing=nbd://127.0.0.1 speed=1G"' > /etc/backfill/vm1.conf
[ "$(of EnvironmentFile "$unit")" = /etc/backfill/vm1.conf ]
user=$(of User "$unit")
install -d -o "$user" "/var/lib/$(of StateDirectory "$unit")"
socket=$(of ListenStream "$socket_unit")
install -d -o "$user" "${socket%/*}"

start_disk () {
  local command
  rm -f "$socket"
  while IFS= read -r setting; do
    declare "${setting?}"
  done < <(of Environment "$unit")
  . /etc/backfill/vm1.conf
  command=$(of ExecStart "$unit")
  # shellcheck disable=SC2086
  eval "set -- $command"
  # Systemd makes the socket; nbdkit gets it, as this user.
  setpriv --reuid="$user" --regid="$user" --clear-groups --bounding-set=-all \
    --no-new-privs systemd-socket-activate -l "$socket" -E PATH "$@" \
    < /dev/null > disk.log 2>&1 &
  disk=$!
  wait_for test -S "$socket"
  chown "$(of SocketUser "$socket_unit"):$(of SocketGroup "$socket_unit")" "$socket"
  chmod "$(of SocketMode "$socket_unit")" "$socket"
}

# QEMU is in the group kvm.
as_qemu () {
  setpriv --reuid=nobody --regid=kvm --clear-groups "$@"
}

if command -v systemd-socket-activate > /dev/null; then
  say "a disk by nbdkit-backfill@vm1.service"
  start_disk
  as_qemu nbdinfo --size "nbd+unix:///vm1?socket=$socket" | grep -qx 16777216
  if setpriv --reuid=nobody --regid=nogroup --clear-groups \
    nbdinfo --size "nbd+unix:///vm1?socket=$socket" > /dev/null 2>&1; then
    echo "anybody may connect"
    exit 1
  fi
  backfill list
  backfill -c "nbd:$socket" list | grep -q vm1
  backfill allocate vm1 --wait --quiet
  as_qemu nbdcopy "nbd+unix:///vm1?socket=$socket" - | cmp - golden
  say "it is killed, and started again"
  kill -KILL $disk
  wait $disk 2> /dev/null || :
  start_disk
  as_qemu nbdcopy "nbd+unix:///vm1?socket=$socket" - | cmp - golden
  backfill detach vm1
  kill $disk
  wait $disk
  cmp golden /var/lib/backfill/vm1.img
  [ ! -e /var/lib/backfill/vm1.img.backfill ]
else
  echo "no systemd-socket-activate: the unit's command is not run"
fi

say "a volume by backfilld"
mkdir -p /var/lib/libvirt/images
unit=$(unit_file backfilld backfilld.service)
BACKFILLD_OPTIONS=$(of Environment "$unit" | sed 's/^[^=]*=//')
eval "exec $(of ExecStart "$unit")" < /dev/null > daemon.log 2>&1 &
daemon=$!
wait_for test -S /run/backfill/backfilld.sock
backfill create /var/lib/libvirt/images/vm2.img --backing nbd://127.0.0.1
backfill allocate /var/lib/libvirt/images/vm2.img --wait --quiet
cmp golden /var/lib/libvirt/images/vm2.img
backfill detach /var/lib/libvirt/images/vm2.img
kill $daemon
wait $daemon

say "what is purged is gone"
dpkg --purge nbdkit-plugin-backfill backfilld backfill-tools libbackfill0 \
  > purge.log 2>&1
left=$(find /etc /usr /lib/systemd -name '*backfill*' ! -path /etc/backfill)
[ -z "$left" ] || { echo "left: $left"; exit 1; }
echo "all of it works"
