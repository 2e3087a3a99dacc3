#!/bin/bash
# PID 1 of fresh namespaces: build a root from the host's, and become systemd in it.
#   boot.sh EMPTY_DIR [DIR...]     DIRs that would be hidden and shall be seen inside, read-only
# Everything that is written lands in a tmpfs and is gone when the namespaces are.
set -euo pipefail
base=$1
shift
. "$(dirname "$0")/../support/fresh_dev.sh"

mount -t tmpfs -o mode=755 scratch "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/root"
root=$base/root

mount -t proc proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
# Fresh: systemd-tmpfiles would walk through and white out all of the host's.
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"

fresh_dev "$root"

for directory in "$@"; do
    mkdir -p "$root$directory"
    mount --bind "$directory" "$root$directory"
    mount -o remount,bind,ro "$root$directory"
done

# Only what the tests need is started: logind, dbus and the journal.
rm -rf "$root"/etc/systemd/system/*.wants
: >"$root/etc/fstab"
for unit in dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-firstboot.service \
    systemd-hwdb-update.service systemd-modules-load.service systemd-networkd.service \
    systemd-random-seed.service systemd-remount-fs.service systemd-sysctl.service \
    systemd-timesyncd.service systemd-udev-trigger.service systemd-udevd.service \
    systemd-udevd-control.socket systemd-udevd-kernel.socket getty.target console-getty.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

hostname trackside-test
mkdir -p "$root/mnt/host"
cd "$root"
pivot_root . mnt/host
umount -l /mnt/host
exec env -i container=trackside-test LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --system --unit=multi-user.target \
    --log-target=journal --show-status=false </dev/null
