#!/bin/busybox sh
# The first process of a machine. The kernel hands on as variables what its command line has: NAME, and KIND (filer or
# host). The filer has the cables eth0 and eth1 to hosts 1 and 2, a host has eth0.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in /modules/*; do
	insmod "$m" || echo "cannot load $m"
done
hostname "$NAME"
ip link set lo up
case $KIND in
filer)
	ip address add 10.0.1.1/24 dev eth0 && ip link set eth0 up
	ip address add 10.0.2.1/24 dev eth1 && ip link set eth1 up
	;;
host)
	n=${NAME#host}
	ip address add "10.0.$n.2/24" dev eth0 && ip link set eth0 up
	;;
esac
until [ -b /dev/vda ]; do usleep 10000; done
mkdir -p /disk
mount -t ext4 /dev/vda /disk || echo "cannot mount /dev/vda"
mkdir -p /disk/lib /disk/export
mount --bind /disk/lib /var/lib
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
until name=$(grep -l '^agent$' /sys/class/virtio-ports/*/name); do usleep 10000; done
port=${name%/name}
agent "/dev/${port##*/}"
poweroff -f
