// Package initramfs makes the first file system of virtual machines that run Linux: an archive for
// the kernel of programs with their libraries, and of the kernel's modules in the order in which they
// must be loaded.
package initramfs
