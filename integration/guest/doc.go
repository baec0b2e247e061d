// Package guest is a test bed of real libvirt hosts and real QEMU guests, for the
// integration tests, the demo and the benchmarks.
//
// A Host is a private libvirt: the QEMU driver embedded in each client process
// (NewHost), or a libvirtd of its own (NewDaemon). Hosts share nothing, so that
// tests may run in parallel.
//
// A guest of Define has no operating system (DefineLinux makes one that has). Its boot sector writes numbered blocks for
// ever, one after the other, the same on each data disk. Hence the one invariant
// that everything here relies on: at any moment the guest-visible bytes of a disk
// are exactly what writes 1 … K leave behind, for some K. Check verifies that and
// returns K, so a snapshot, a merge or a restore that loses, adds or mixes up a
// single block is seen without knowing what was written when.
//
// Guests run under TCG: they need neither KVM nor, apart from the permissions
// that QEMU wants, root. NewDaemon and the loop devices need root.
package guest
