package formats

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

func qcow2Format() Format {
	return Format{
		Format: chain.Format{
			Name:    "qcow2",
			Probe:   qcow2.Probe,
			Open:    func(f vfs.File, data chain.DataOpener) (chain.Source, error) { return qcow2.Open(f, data) },
			Inspect: inspectQcow2,
		},
		Extension: ".qcow2",
		Overlays:  true,
		Packs:     true,
		Rooms:     []chain.Room{chain.RoomMetadata, chain.RoomFalloc, chain.RoomFull},
		Details:   qcow2Details,
		Check:     checkQcow2,
		Compact:   compactQcow2,
		CompactTo: compactQcow2To,
		States:    qcow2States,

		BitmapsSize: bitmapsQcow2,
		Bitmaps:     listBitmapsQcow2,
		Amend:       amendQcow2,

		TakeSnapshot: func(f vfs.File, name string, now time.Time) error {
			return changeQcow2(f, func(m *qcow2.Image) error { return m.TakeSnapshot(name, now) })
		},
		DeleteSnapshot: func(f vfs.File, at int) error {
			return changeQcow2(f, func(m *qcow2.Image) error { return m.DeleteSnapshot(at) })
		},
		RevertTo: func(f vfs.File, at int) error {
			return changeQcow2(f, func(m *qcow2.Image) error { return m.RevertTo(at) })
		},

		New: func() Maker { return &qcow2Maker{} },
		Options: []string{"size", "cluster_size", "compat", "refcount_bits", "extended_l2", "lazy_refcounts",
			"compression_type", "preallocation", "backing_file", "backing_fmt"},
		BuildsOn: qcow2BuildsOn,
		Layer:    qcow2Layer,
	}
}

func inspectQcow2(f vfs.File) (image chain.Image, err error) {
	err = ReadSteady(f, func(size int64) error {
		h, err := qcow2.ReadHeader(f, size)
		image = h.Image()
		return err
	})
	return image, err
}

func qcow2Layer(path string, _ vfs.Info) (image chain.Image, err error) {
	err = readSteady(path, func(r io.ReaderAt, size int64) error {
		h, err := qcow2.ReadHeader(r, size)
		if err != nil {
			image = chain.Image{}
			return err
		}
		image = h.Image()
		image.Blank, err = qcow2.Blank(r, h, size)
		return err
	})
	return image, err
}

// qcow2BuildsOn leaves out differencing VHDs: QEMU reads one as if it had no parent, and
// a guest would see garbage.
func qcow2BuildsOn(below chain.Node) (reason string) {
	if below.Image.Format != "vhd" || below.Image.Backing == "" {
		return ""
	}
	return fmt.Sprintf("the backing file %s is a differencing VHD, which QEMU reads without its parent: convert the chain (image convert --chain)", below.Path)
}

// NewOverlay returns what writes a qcow2 image without data into an empty file, with the
// features of the image at like, if one is named: the overlays of rotation.
func NewOverlay(fsys vfs.FS) func(f vfs.File, like string, size int64, backing, format string) error {
	return func(f vfs.File, like string, size int64, backing, format string) error {
		o := qcow2.CreateOptions{Size: size, Backing: backing, BackingFormat: format}
		if like == "" {
			return qcow2.Create(f, o)
		}
		was, err := fsys.Open(like, false)
		if err != nil {
			return err
		}
		var h qcow2.Header
		err = ReadSteady(was, func(size int64) (err error) {
			h, err = qcow2.ReadHeader(was, size)
			return err
		})
		if err = errors.Join(err, was.Close()); err != nil {
			return fmt.Errorf("%s: %w", like, err)
		}
		o.ClusterSize, o.Version, o.RefcountBits = h.ClusterSize(), h.Version, 1<<h.RefcountOrder
		o.ExtendedL2, o.LazyRefcounts, o.CompressionType = h.ExtendedL2(), h.LazyRefcounts(), h.CompressionType
		return qcow2.Create(f, o)
	}
}

func checkQcow2(f vfs.File, r Repair) (CheckResult, error) {
	how := qcow2.RepairNone
	switch r {
	case RepairLeaks:
		how = qcow2.RepairLeaks
	case RepairAll:
		how = qcow2.RepairAll
	}
	res, err := qcow2.Check(f, how)
	out := CheckResult{
		Corruptions: res.Corruptions, Leaks: res.Leaks, CheckErrors: res.CheckErrors,
		CorruptionsFixed: res.CorruptionsFixed, LeaksFixed: res.LeaksFixed,
		ImageEndOffset: res.ImageEndOffset, TotalClusters: res.TotalClusters, AllocatedClusters: res.AllocatedClusters,
		FragmentedClusters: res.FragmentedClusters, CompressedClusters: res.CompressedClusters, ProblemCount: res.ProblemCount,
		Repaired: res.Restored,
	}
	for _, p := range res.Problems {
		out.Problems = append(out.Problems, Problem(p))
	}
	return out, err
}

// A qcow2Maker says what only a new qcow2 image is to be.
type qcow2Maker struct {
	options qcow2.CreateOptions
	compat  string // as it was told
}

func (m *qcow2Maker) Set(key, value string) (err error) {
	o := &m.options
	switch key {
	case "cluster_size":
		o.ClusterSize, err = ParseSize(value)
	case "compat":
		m.compat = value
		o.Version, err = parseCompat(value)
	case "refcount_bits":
		o.RefcountBits, err = strconv.Atoi(value)
	case "extended_l2":
		o.ExtendedL2, err = parseSwitch(value)
	case "lazy_refcounts":
		o.LazyRefcounts, err = parseSwitch(value)
	case "compression_type":
		o.CompressionType, err = parseCompression(value)
	default:
		err = errors.New("qcow2 images have no " + key)
	}
	return err
}

func parseCompat(v string) (uint32, error) {
	switch v {
	case "0.10", "v2":
		return 2, nil
	case "1.1", "v3":
		return 3, nil
	}
	return 0, errors.New("want 0.10 or 1.1")
}

func parseCompression(v string) (uint8, error) {
	switch v {
	case "zlib":
		return qcow2.CompressionZlib, nil
	case "zstd":
		return qcow2.CompressionZstd, nil
	}
	return 0, errors.New("want zlib or zstd")
}

func (m *qcow2Maker) Create(f vfs.File, n New) error {
	o := m.options
	o.Size, o.Backing, o.BackingFormat = n.Size, n.Backing, chain.QEMUName(n.BackingFormat)
	return qcow2.Create(f, o)
}

func (m *qcow2Maker) Text(n New, size int64) string {
	const defaultCluster, defaultBits = 65536, 16
	o := m.options
	if o.ClusterSize == 0 {
		o.ClusterSize = defaultCluster
	}
	if o.RefcountBits == 0 {
		o.RefcountBits = defaultBits
	}
	text := fmt.Sprintf("fmt=qcow2 cluster_size=%d extended_l2=%s%s compression_type=%s size=%d",
		o.ClusterSize, onOff(o.ExtendedL2), roomText(n), compressionName(o.CompressionType), size)
	if m.compat != "" {
		text += " compat=" + m.compat
	}
	return text + backingText(n) + fmt.Sprintf(" lazy_refcounts=%s refcount_bits=%d", onOff(o.LazyRefcounts), o.RefcountBits)
}

func compressionName(method uint8) string {
	if method == qcow2.CompressionZstd {
		return "zstd"
	}
	return "zlib"
}
