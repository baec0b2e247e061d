// Package pool reads what a pool of XenServer says of its guests: their disks, snapshots,
// memory, processors, networks and firmware, from the pool's database, from what xe prints,
// and from exports of a guest's metadata.
//
// Invariants:
//   - references between records are UUIDs, whatever the source has for them: several sources
//     add up;
//   - all of it is somebody else's text, of any length and content: nothing of it is a path,
//     sizes an allocation or is run.
package pool
