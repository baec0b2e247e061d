package chain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Glance is what the beginning of a file tells of the image that it builds on. It is
// less strict than opening it: of an image that is cut off or damaged elsewhere, its
// header still tells the name.
type Glance struct {
	// Format is "" for a file without any magic that is known: a raw disk, or no image.
	Format  string
	Backing string // the name as stored, up to a NUL, which ends it for QEMU; "" for none
	// BackingFormat is "" where the header does not tell, or not where it usually does.
	BackingFormat string
}

// CanBuildOn tells whether images of this kind can build on one of that format.
// Backing is read of those only that can build on any. VMDK, VDI, VHDX and Parallels
// know parents of their own format, VHD also raw ones (XenServer).
func (g Glance) CanBuildOn(format string) bool {
	switch g.Format {
	case "":
		return false
	case "qcow2", "qcow", "qed":
		return true
	case "vhd":
		return format == "vhd" || format == "raw"
	}
	return g.Format == format
}

// glanced is how much of a file is read at first, in bytes. The name is nearly always
// in there.
const glanced = 4096

// GlanceAt reads what the image r builds on. An error means that it may build on
// something, and what that is cannot be told: r cannot be read, or its header is
// damaged just there. A file that ends within its header is opened by no program, and
// builds on nothing.
func GlanceAt(r io.ReaderAt) (Glance, error) {
	b := make([]byte, glanced)
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Glance{}, err
	}
	h := head{r, b[:n]}
	switch format := h.magic(); format {
	case "qcow2":
		return h.qcow()
	case "qed":
		return h.qed()
	default:
		return Glance{Format: format}, nil
	}
}

// A head is the beginning of a file.
type head struct {
	r io.ReaderAt
	b []byte
}

// Magics, all at the beginning of the file but for that of VDI.
var magics = []struct{ magic, format string }{
	{"QFI\xfb", "qcow2"},
	{"QED\x00", "qed"},
	{"conectix", "vhd"},
	{"v_poison", "vhd"}, // XenServer: a resize was interrupted
	{"KDMV", "vmdk"},
	{"COWD", "vmdk"},
	{"# Disk DescriptorFile", "vmdk"},
	{"vhdxfile", "vhdx"},
	{"WithoutFreeSpace", "parallels"},
	{"WithouFreSpacExt", "parallels"},
}

const (
	vdiMagic    = 0xbeda107f
	offVDIMagic = 64
)

func (h head) magic() string {
	for _, m := range magics {
		if bytes.HasPrefix(h.b, []byte(m.magic)) {
			return m.format
		}
	}
	if len(h.b) >= offVDIMagic+4 && binary.LittleEndian.Uint32(h.b[offVDIMagic:]) == vdiMagic {
		return "vdi"
	}
	return ""
}

// The headers of qcow, versions 1 to 3, as far as they tell what the image builds on;
// QEMU block/qcow.c and docs/interop/qcow2, big endian.
//
//	0 magic    4 version    8 backing_file_offset    16 backing_file_size
//	100 header_length (version 3)
const (
	offQcowVersion   = 4
	offQcowBacking   = 8
	offQcowLength    = 16
	offQcowHeaderLen = 100
	qcow1Header      = 48
	qcow2Header      = 72
	qcow3Header      = 104
	maxBackingName   = 1023 // of QEMU, in all formats
)

func (h head) qcow() (Glance, error) {
	be := binary.BigEndian
	if len(h.b) < qcow1Header {
		return Glance{Format: "qcow2"}, nil
	}
	g, header := Glance{Format: "qcow2"}, qcow2Header
	switch version := be.Uint32(h.b[offQcowVersion:]); version {
	case 1:
		g.Format, header = "qcow", qcow1Header
	case 2:
	case 3:
		header = qcow3Header
	default:
		return g, fmt.Errorf("it is a qcow2 image of version %d, which is not known", version)
	}
	if len(h.b) < header {
		return g, nil
	}
	return h.qcowName(g, header)
}

func (h head) qcowName(g Glance, header int) (Glance, error) {
	be := binary.BigEndian
	length := int64(header)
	if header == qcow3Header {
		length = int64(be.Uint32(h.b[offQcowHeaderLen:]))
	}
	off, n := be.Uint64(h.b[offQcowBacking:]), be.Uint32(h.b[offQcowLength:])
	var err error
	if g.Backing, err = h.name(off, n); err != nil && h.endsBefore(length) {
		return g, nil // before its name as well, and no program opens it
	}
	if g.Backing != "" && g.Format == "qcow2" {
		g.BackingFormat = h.backingFormat(length, int64(off))
	}
	return g, err
}

// endsBefore tells whether the file has fewer than n bytes.
func (h head) endsBefore(n int64) bool {
	var last [1]byte
	read, err := h.r.ReadAt(last[:], n-1)
	return read == 0 && errors.Is(err, io.EOF)
}

// name reads a backing name. Offset or length 0 is none.
func (h head) name(off uint64, n uint32) (string, error) {
	switch {
	case off == 0 || n == 0:
		return "", nil
	case n > maxBackingName:
		return "", fmt.Errorf("its header is damaged: the name of its backing file has %d bytes", n)
	case off > 1<<62:
		return "", fmt.Errorf("its header is damaged: the name of its backing file is at %d", off)
	}
	b := make([]byte, n)
	read, err := h.r.ReadAt(b, int64(off))
	if read < len(b) && errors.Is(err, io.EOF) {
		return "", fmt.Errorf("it is cut off before the end of the name of its backing file, at %d", off+uint64(n))
	}
	if read < len(b) {
		return "", err
	}
	name, _, _ := bytes.Cut(b, []byte{0})
	return string(name), nil
}

// Header extensions of qcow2 ("Header extensions"): type, length, data, padding to 8.
const (
	extensionFormat = 0xe2792aca
	extensionHeader = 8
)

// backingFormat looks through the extensions between the header and the name.
func (h head) backingFormat(from, to int64) string {
	be := binary.BigEndian
	for end := min(to, int64(len(h.b))); from >= 0 && from+extensionHeader <= end; {
		kind, n := be.Uint32(h.b[from:]), int64(be.Uint32(h.b[from+4:]))
		from += extensionHeader
		switch {
		case kind == 0 || n > end-from:
			return ""
		case kind == extensionFormat:
			return string(h.b[from : from+n])
		}
		from += (n + 7) / 8 * 8
	}
	return ""
}

// A QED header, as far as it tells what the image builds on; QEMU
// docs/interop/qed_spec, little endian.
//
//	0 magic    16 features    56 backing_filename_offset    60 backing_filename_size
const (
	offQEDFeatures = 16
	offQEDBacking  = 56
	offQEDLength   = 60
	qedHeader      = 64
	qedBacking     = 1 << 0 // of the features: it has a backing file
	qedRaw         = 1 << 2 // of the features: that is a raw disk
)

func (h head) qed() (g Glance, err error) {
	le := binary.LittleEndian
	g.Format = "qed"
	if len(h.b) < qedHeader {
		return g, nil
	}
	features := le.Uint64(h.b[offQEDFeatures:])
	if features&qedBacking == 0 {
		return g, nil
	}
	if features&qedRaw != 0 {
		g.BackingFormat = "raw"
	}
	g.Backing, err = h.name(uint64(le.Uint32(h.b[offQEDBacking:])), le.Uint32(h.b[offQEDLength:]))
	return g, err
}
