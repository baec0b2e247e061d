// Package nfs is a test bed of hosts that share real NFS: virtual machines with Debian's kernel, one of which
// exports a directory that the others mount.
//
// A Lab is a filer and two hosts, each on a cable of its own to the filer: QEMU's network of datagrams
// between sockets of this machine, so nothing of this machine's own network is touched, and root is
// not needed. They boot from an archive in memory, made of unpacked packages (tools.sh). What runs in
// them is package inside, by a port of virtio-serial, and virt-rotate itself, built without libvirt.
package nfs
