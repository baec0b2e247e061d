// Package filetree lists, compares and copies trees of files whose names and contents come
// from somebody who cannot be trusted.
//
// A tree is an open directory. Nothing is read through a name that leads out of it: symbolic
// links are resolved as if it were the root of the file system, or not at all. Nothing is
// written but below the directory that is the target, held open level by level, and never
// through a symbolic link that stands there. Each file is written under another name and then
// named, so that there is no half file. Memory does not grow with the number of files, but
// with the names of one directory.
package filetree
