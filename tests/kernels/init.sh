#!/busybox sh
# The first process of the machine: makes this host's root its own, read-only, and goes on with the command there.
set -e
/busybox mount -t proc proc /proc
while read -r module; do
    /busybox insmod "/$module"
done < /order
/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host
/busybox mount -t proc proc /host/proc
/busybox mount -t sysfs sysfs /host/sys
/busybox mount -t devtmpfs dev /host/dev
/busybox mkdir /host/dev/shm
/busybox mount -t tmpfs shm /host/dev/shm
/busybox ip link set lo up
/busybox stty raw -F /host/dev/ttyS1
# Not chroot: a process in one may not make user namespaces.
exec /busybox switch_root /host /bin/sh -c "$(/busybox cat /command)"
