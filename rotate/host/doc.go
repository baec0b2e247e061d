// Package host is what rotation asks of a hypervisor, and what it is told: domains with
// their disks, chains, jobs and snapshots, and what is wrong with them.
//
// Host is the whole of it, made of the parts that one room each needs: a Looker only tells,
// a Merger moves data, Records are libvirt's own, Guests are stopped. internal/libvirthost
// implements it for libvirt, rotate/hosttest as a simulation; another hypervisor is one
// more package like these.
//
// What a Host tells is taken as it is said: formats are never guessed, paths never
// followed here. Chains are base first, snapshots parents first.
package host
