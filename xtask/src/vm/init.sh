#!/bin/sh
# Process 1 of an emulated machine: sets it up, runs the kernel tests, says how they ended, turns it off.
# The tests' output goes to the second serial line, the kernel's and everything else's to the first.
export PATH=/bin:/sbin:/usr/bin HOME=/tmp
# The shell prefers its own tools to those in PATH: the host's are called by their full path.
/bin/busybox --install -s /sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -sf /proc/self/fd /dev/fd
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs trace /sys/kernel/tracing
mount -t securityfs security /sys/kernel/security
ip link set lo up
for module in $(cat /modules); do
    /bin/modprobe -q "$module" || echo "no module $module"
done
read -r filter </proc/cmdline
case $filter in *bulkhead.test=*) filter=${filter##*bulkhead.test=} filter=${filter%% *} ;; *) filter= ;; esac
stty -F /dev/ttyS1 raw 2>/dev/null
BULKHEAD_BIN=/bulkhead/bulkhead BULKHEAD_SLOWNESS=6 BULKHEAD_OWN_MACHINE=1 RUST_BACKTRACE=0 \
    /bulkhead/deps/kernel --test-threads 1 --color never $filter >/dev/ttyS1 2>&1
echo "ended with $?" >/dev/ttyS1
poweroff -f
