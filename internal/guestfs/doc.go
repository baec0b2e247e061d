// Package guestfs reads the file systems of images, by libguestfs or by the host's kernel.
//
// An image is opened read-only, by qemu-nbd, and nothing is ever written to it. By libguestfs
// (guestfish) a file system is looked at in a virtual machine of its own, which knows
// partitions, LVM, RAID, LUKS and most file systems; one that was made to attack a kernel
// attacks that machine's. By the host's kernel it is faster, and for those who trust the guest.
//
// An Ext is a whole disk with an ext file system, of which one file is wanted: debugfs, a
// program like others, takes it out.
//
// A View that is not to be seen by others is in mount namespaces of its own, or attached to
// no directory at all: whatever this process dies of, nothing stays mounted.
package guestfs
