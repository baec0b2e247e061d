#!/bin/sh
# inside.sh ROOT SRC GOROOT GOMODCACHE COMMAND…: becomes the first process of a host that has
# the libvirt and QEMU of ROOT and this machine's Go, and runs the command in the checkout.
# The caller has unshared mount, PID, UTS, IPC and network namespaces; when the command ends,
# every guest of it ends, too.
set -eu

root=$1 src=$2 goroot=$3 modcache=$4
shift 4
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount --bind "$src" "$root/src"
mkdir -p "$src/bin"
mount -t tmpfs tmpfs "$root/src/bin" # the machine's own binary stays
mount --bind "$goroot" "$root/usr/local/go"
mount --bind "$modcache" "$root/go"
rm -rf "$root"/tmp/* "$root"/var/tmp/*
hostname "$(basename "$root")"
ip link set lo up
cd "$root"
pivot_root . old
exec /usr/sbin/chroot . /usr/bin/env -i PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
	TERM=dumb LC_ALL=C GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-buildvcs=false GOMODCACHE=/go GOCACHE=/root/.cache/go-build \
	sh -c 'umount -l /old; mkdir -p /run/libvirt /run/lock; cd /src; exec "$@"' sh "$@"
