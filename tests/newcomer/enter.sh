#!/bin/bash
# PID 1 of fresh namespaces: run one command in a root of its own; what it leaves running ends with it.
#   enter.sh ROOT [FILE...] -- COMMAND [ARGUMENT...]
# FILEs of this machine are seen inside below /mnt/given, read-only.
set -euo pipefail
root=$1
shift
. "$(dirname "$0")/../support/fresh_dev.sh"

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
fresh_dev "$root"

while [ "$1" != -- ]; do
    given=$root/mnt/given$1
    mkdir -p "$(dirname "$given")"
    if [ -d "$1" ]; then mkdir -p "$given"; else touch "$given"; fi
    mount --bind "$1" "$given"
    mount -o remount,bind,ro "$given"
    shift
done
shift

hostname "$(cat "$root/etc/hostname")"
mkdir -p "$root/mnt/host"
cd "$root"
pivot_root . mnt/host
umount -l /mnt/host
status=0
"$@" </dev/null || status=$?
exit "$status"
