// Package hosts is a test bed of several hosts that have the same storage, on one machine.
//
// A Host is a libvirtd in namespaces of its own (mounts, processes, network, host name), with its own
// /etc/libvirt, /var/lib/libvirt and /run. All hosts of a Fleet have one directory as
// /srv/share: as a bind mount, so that locks reach the others (one kernel), or by bindfs, a FUSE
// file system of each host's own, which keeps locks to itself and has another st_dev. It
// needs root.
//
// Guests have no operating system, and wait: what is in their disks is written from outside, by
// qemu-io or by the monitor of their QEMU.
package hosts
