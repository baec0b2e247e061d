package images

// What help texts and messages say of formats: with a new format, this changes.
const (
	FormatHelp        = "`FORMAT` of the image: qcow2, vhd (or vpc) or raw; default: qcow2 or vhd, if it carries the magic"
	CreateFormatHelp  = "`FORMAT` of the new image: raw, qcow2 or vhd"
	ConvertFormatHelp = "`FORMAT` of the new image: raw, qcow2 or vhd (default: raw, with --chain qcow2)"
	ExportFormatHelp  = "`FORMAT` of the new file: qcow2, raw or vhd"
	RoomHelp          = "`MODE` of what is new: off; metadata (of qcow2), falloc or full"
	BackingFormatHelp = "-F qcow2, -F vhd or -F raw"

	CreateOptionsHelp = `Options of qcow2 images: size,
cluster_size, compat (0.10 or 1.1), refcount_bits, extended_l2, lazy_refcounts,
compression_type (zlib or zstd), preallocation (off, metadata, falloc or full),
backing_file, backing_fmt; of raw disks: size, preallocation; of VHDs: size, subformat
(dynamic or fixed), force_size (always on), backing_file, backing_fmt. A VHD with a
backing file is a differencing disk, on a VHD or a raw disk.`

	GuessHelp = `Without -f a file is taken for qcow2 or VHD, and only if it carries that
format's magic at its beginning; a raw disk must be named with -f raw, a fixed VHD
with -f vhd.`
)
