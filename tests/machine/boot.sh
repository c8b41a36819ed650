#!/bin/sh
# boot.sh ROOT UPPER: become systemd as process 1 of ROOT. Called in mount, cgroup, pid, UTS and IPC namespaces of its
# own (unshare --mount --cgroup --pid --uts --ipc --fork). ROOT is only read: changes go to UPPER and are lost.
# /sys and /proc/sys are read-only, as in a container, so that no unit changes this kernel's settings.
set -eu
root=$1 upper=$2
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$upper/mnt"
mkdir "$upper/mnt/upper" "$upper/mnt/work" "$upper/mnt/root"
cp -a "$upper/etc" "$upper/mnt/upper/"
mount -t overlay -o "lowerdir=$root,upperdir=$upper/mnt/upper,workdir=$upper/mnt/work" machine "$upper/mnt/root"
cd "$upper/mnt/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -o remount,bind,ro sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm old
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . old
umount -l old
exec env -i container=bulkhead-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --show-status=0
