// Package engine merges the layers of guests that are shut off, and builds the clones of a
// graft: with the chain package on the files themselves, no hypervisor involved.
//
// It takes QEMU's image locks for as long as it works, and calls the function that puts the
// new chain on record while it still has them.
package engine
