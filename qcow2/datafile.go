package qcow2

import "github.com/virt-rotate/virt-rotate/internal/chain"

// A DataOpener opens the external data file of an image for reading. It is a
// func(name string) (r io.ReaderAt, size int64, err error). The name is the one in the
// header, and not to be trusted: an image could have any file of the host read.
type DataOpener = chain.DataOpener

// A Packed extent is one compressed cluster as it is stored: Offset of the cluster as
// the guest sees it, in bytes, Method, and Bytes. An image whose Image.Method is the
// same can take it as it is, with PutPacked.
type Packed = chain.Packed
