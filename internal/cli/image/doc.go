// Package image has the commands for images that no guest uses, whose arguments, output and
// exit statuses are those of qemu-img where it has the command.
package image
