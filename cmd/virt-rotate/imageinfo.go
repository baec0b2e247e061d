package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/qcow2"
)

func imageInfoCommand(e *env) *cli.Command {
	return &cli.Command{
		Name: "info", Usage: "tell what an image says of itself; running guests do not matter",
		ArgsUsage: "FILE", OnUsageError: usageError,
		Flags: []cli.Flag{
			outputFlag(), formatFlag(), allowFlag(),
			&cli.BoolFlag{Name: "backing-chain", Usage: "also tell it of all images below"},
			&cli.BoolFlag{Name: "force-share", Aliases: []string{"U"}, Usage: "as in qemu-img; nothing is ever locked here", Hidden: true},
		},
		Description: `Only headers are read, and nothing is locked. JSON keys are those of qemu-img.

   virt-rotate image info --backing-chain --output=json web.qcow2

` + imageExitHelp,
		Action: e.image(1, 1, func(r *imageRun) error {
			infos, err := r.infos()
			if err != nil {
				return err
			}
			var v any = infos
			if !r.Bool("backing-chain") {
				v = infos[0]
			}
			return r.print(r.Context, v, func(w io.Writer) { infosText(w, infos) })
		}),
	}
}

// imageInfo is the JSON of image info; keys and their meaning are qemu-img's.
type imageInfo struct {
	Snapshots     []infoSnapshot `json:"snapshots,omitempty"`
	BackingFormat string         `json:"backing-filename-format,omitempty"`
	VirtualSize   int64          `json:"virtual-size"`
	Filename      string         `json:"filename"`
	ClusterSize   int64          `json:"cluster-size,omitempty"`
	Format        string         `json:"format"`
	ActualSize    int64          `json:"actual-size"`
	Specific      *infoSpecific  `json:"format-specific,omitempty"`
	FullBacking   string         `json:"full-backing-filename,omitempty"`
	Backing       string         `json:"backing-filename,omitempty"`
	Encrypted     bool           `json:"encrypted,omitempty"`
	Dirty         bool           `json:"dirty-flag"`
}

type infoSnapshot struct {
	Icount    *int64 `json:"icount,omitempty"`
	ClockNsec int64  `json:"vm-clock-nsec"`
	Name      string `json:"name"`
	DateSec   int64  `json:"date-sec"`
	DateNsec  int64  `json:"date-nsec"`
	ClockSec  int64  `json:"vm-clock-sec"`
	ID        string `json:"id"`
	StateSize int64  `json:"vm-state-size"`
}

// infoSpecific is what images of one format have.
type infoSpecific struct {
	Type string `json:"type"`
	Data any    `json:"data"` // *infoQcow2 or *infoVHD
}

// infoQcow2 leaves out what version 2 does not have.
type infoQcow2 struct {
	Compat      string       `json:"compat"`
	Compression string       `json:"compression-type"`
	Lazy        *bool        `json:"lazy-refcounts,omitempty"`
	Bitmaps     []infoBitmap `json:"bitmaps,omitempty"`
	RefcountBit int          `json:"refcount-bits"`
	Encrypt     *infoEncrypt `json:"encrypt,omitempty"`
	DataFile    string       `json:"data-file,omitempty"`
	DataFileRaw *bool        `json:"data-file-raw,omitempty"`
	Corrupt     *bool        `json:"corrupt,omitempty"`
	ExtendedL2  *bool        `json:"extended-l2,omitempty"`
}

type infoBitmap struct {
	Flags       []string `json:"flags"`
	Name        string   `json:"name"`
	Granularity int64    `json:"granularity"`
}

type infoEncrypt struct {
	IV         string     `json:"ivgen-alg,omitempty"`
	IVHash     string     `json:"ivgen-hash-alg,omitempty"`
	Hash       string     `json:"hash-alg,omitempty"`
	Cipher     string     `json:"cipher-alg,omitempty"`
	UUID       string     `json:"uuid,omitempty"`
	Format     string     `json:"format"`
	Mode       string     `json:"cipher-mode,omitempty"`
	Slots      []infoSlot `json:"slots,omitempty"`
	Payload    int64      `json:"payload-offset,omitempty"`
	Iterations int64      `json:"master-key-iters,omitempty"`
}

type infoSlot struct {
	Active     bool   `json:"active"`
	Iterations *int64 `json:"iters,omitempty"`
	Offset     int64  `json:"key-offset"`
	Stripes    *int64 `json:"stripes,omitempty"`
}

// infos describes the image, and with --backing-chain all below it, in this order.
func (r *imageRun) infos() ([]imageInfo, error) {
	name := r.arg(0)
	nodes, err := r.infoNodes(name)
	if err != nil {
		return nil, err
	}
	infos := make([]imageInfo, 0, len(nodes))
	for i := len(nodes) - 1; i >= 0; i-- {
		info, err := r.info(nodes[i], name)
		if err != nil {
			return nil, err
		}
		infos, name = append(infos, *info), info.FullBacking
	}
	return infos, nil
}

func (r *imageRun) infoNodes(name string) ([]chain.Node, error) {
	if r.Bool("backing-chain") {
		return r.chain(name, r.format())
	}
	n, err := r.store.Node(name, r.format())
	return []chain.Node{n}, err
}

// info describes one image; name is how it is to be called.
func (r *imageRun) info(n chain.Node, name string) (*imageInfo, error) {
	format, err := formatNamed(n.Image.Format)
	if err != nil {
		return nil, err
	}
	i := &imageInfo{
		Filename: name, Format: n.Image.Format, VirtualSize: n.Image.VirtualSize, ActualSize: n.Info.Allocated,
		Backing: n.Image.Backing, BackingFormat: n.Image.BackingFormat, FullBacking: nameBelow(name, n.Image.Backing),
		Encrypted: n.Image.Encrypted,
	}
	if n.Info.IsBlock {
		i.ActualSize = 0 // a device has no blocks of a file system
	}
	f, err := r.store.FS.Open(n.Path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	err = steady(sizeOf(f), func(size int64) error { return format.details(f, size, i) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Path, err)
	}
	return i, nil
}

// nameBelow is what QEMU calls the backing file of an image that it calls name.
func nameBelow(name, backing string) string {
	if backing == "" || filepath.IsAbs(backing) {
		return backing
	}
	if _, plain := chain.PlainPath(name, backing); !plain {
		return backing
	}
	return name[:strings.LastIndexByte(name, '/')+1] + backing
}

// qcow2Details fills in what is special to qcow2.
func qcow2Details(r io.ReaderAt, size int64, to *imageInfo) error {
	h, err := qcow2.ReadHeader(r, size)
	if err != nil {
		return err
	}
	snapshots, err := qcow2.ReadSnapshots(r, h, size)
	if err != nil {
		return err
	}
	data, err := newInfoQcow2(r, h)
	if err != nil {
		return err
	}
	to.ClusterSize, to.Dirty, to.Snapshots = h.ClusterSize(), h.Dirty(), infoSnapshots(snapshots)
	to.Specific = &infoSpecific{"qcow2", data}
	return nil
}

func infoSnapshots(list []qcow2.Snapshot) []infoSnapshot {
	out := []infoSnapshot{}
	for _, s := range list {
		const second = 1e9
		i := infoSnapshot{ID: s.ID, Name: s.Name, DateSec: s.Seconds, DateNsec: s.Nanoseconds,
			ClockSec: s.Clock / second, ClockNsec: s.Clock % second, StateSize: s.StateSize}
		if s.Icount >= 0 {
			i.Icount = &s.Icount
		}
		out = append(out, i)
	}
	return out
}

func newInfoQcow2(r io.ReaderAt, h qcow2.Header) (*infoQcow2, error) {
	bitmaps, err := qcow2.ReadBitmaps(r, h)
	if err != nil {
		return nil, err
	}
	encrypt, err := newInfoEncrypt(r, h)
	if err != nil {
		return nil, err
	}
	i := &infoQcow2{Compat: "0.10", Compression: compressionName(h.CompressionType), RefcountBit: 1 << h.RefcountOrder, Encrypt: encrypt}
	for _, b := range bitmaps {
		i.Bitmaps = append(i.Bitmaps, infoBitmap{bitmapFlags(b), b.Name, b.Granularity})
	}
	if h.Version < 3 {
		return i, nil
	}
	lazy, corrupt, extended, raw := h.LazyRefcounts(), h.Corrupt(), h.ExtendedL2(), h.DataFileRaw()
	i.Compat, i.Lazy, i.Corrupt, i.ExtendedL2 = "1.1", &lazy, &corrupt, &extended
	if h.HasDataFile() {
		i.DataFile, i.DataFileRaw = h.DataFile, &raw
	}
	return i, nil
}

func compressionName(method uint8) string {
	if method == qcow2.CompressionZstd {
		return "zstd"
	}
	return "zlib"
}

func bitmapFlags(b qcow2.Bitmap) []string {
	flags := []string{}
	if b.InUse {
		flags = append(flags, "in-use")
	}
	if b.Auto {
		flags = append(flags, "auto")
	}
	return flags
}

func newInfoEncrypt(r io.ReaderAt, h qcow2.Header) (*infoEncrypt, error) {
	switch h.CryptMethod {
	case qcow2.CryptNone:
		return nil, nil
	case qcow2.CryptAES:
		return &infoEncrypt{Format: "aes"}, nil
	}
	l, err := qcow2.ReadLUKS(r, h)
	if err != nil {
		return nil, err
	}
	i := &infoEncrypt{Format: "luks", IV: l.IV, IVHash: l.IVHash, Hash: l.Hash, Cipher: l.Cipher, UUID: l.UUID,
		Mode: l.Mode, Payload: l.Payload, Iterations: l.Iterations}
	for _, s := range l.Slots {
		slot := infoSlot{Active: s.Active, Offset: s.Offset}
		if s.Active {
			slot.Iterations, slot.Stripes = &s.Iterations, &s.Stripes
		}
		i.Slots = append(i.Slots, slot)
	}
	return i, nil
}
