// Package bundle is a directory with a guest's exported state, its manifest, and the proof that
// it is whole.
//
// A directory has one image for each disk, further files (the domain's XML; see Kinds),
// manifest.json, which tells what they are, and SHA256SUMS, as sha256sum(1) checks it, with all
// of them. An increment is a directory of the same kind whose images are overlays on those of an
// earlier export beside it.
//
// Invariants: a directory gets its name when all in it is durable, so that under its name it is
// there whole or not at all. What a manifest says is believed of nobody: names are plain, files
// are regular and none leads out of the directory, but to the earlier export, which is its
// neighbour. An image is opened only by the name that the manifest has, and never by one that is
// in another image.
package bundle
