// Package images is what all commands share that read or write images: the run of such a
// command, its steps in words, the making of images out of others, and what a check says.
//
// It knows formats by the registry only.
package images
