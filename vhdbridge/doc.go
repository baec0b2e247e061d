// Package vhdbridge knows XenServer's and XCP-ng's storage repositories: directories
// of VHDs (and of raw and qcow2 disks) that build on each other, as the storage
// manager leaves them.
//
// Names are what the storage manager uses: a node is one image, its VDI is its name
// without prefix and extension; the UUID in a VHD's footer is something else, by which a
// child knows its parent when that has another name. Hidden is a node whose own content
// no VDI needs.
//
// Invariants: scanning changes nothing, and reads no data but a disk's first bytes. A node
// that cannot be read in full is never merged, nor is what it builds on or what builds on
// it. Nothing is garbage while any node is not understood. What a plan that was rehearsed
// says is what its run does. At every
// crash point each visible VDI reads as before under its own name, or an interrupted
// state is on record that this package and the storage manager's own collector both
// finish or undo.
//
// The package works on files as virt-rotate itself does, with its locks. What others can
// use are the packages vhd and xva below it.
package vhdbridge
