package formats

import (
	"fmt"
	"io"

	"github.com/virt-rotate/virt-rotate/qcow2"
)

// qcow2Data leaves out what version 2 does not have.
type qcow2Data struct {
	Compat      string        `json:"compat"`
	Compression string        `json:"compression-type"`
	Lazy        *bool         `json:"lazy-refcounts,omitempty"`
	Bitmaps     []qcow2Bitmap `json:"bitmaps,omitempty"`
	RefcountBit int           `json:"refcount-bits"`
	Encrypt     *qcow2Encrypt `json:"encrypt,omitempty"`
	DataFile    string        `json:"data-file,omitempty"`
	DataFileRaw *bool         `json:"data-file-raw,omitempty"`
	Corrupt     *bool         `json:"corrupt,omitempty"`
	ExtendedL2  *bool         `json:"extended-l2,omitempty"`
}

type qcow2Bitmap struct {
	Flags       []string `json:"flags"`
	Name        string   `json:"name"`
	Granularity int64    `json:"granularity"`
}

type qcow2Encrypt struct {
	IV         string      `json:"ivgen-alg,omitempty"`
	IVHash     string      `json:"ivgen-hash-alg,omitempty"`
	Hash       string      `json:"hash-alg,omitempty"`
	Cipher     string      `json:"cipher-alg,omitempty"`
	UUID       string      `json:"uuid,omitempty"`
	Format     string      `json:"format"`
	Mode       string      `json:"cipher-mode,omitempty"`
	Slots      []qcow2Slot `json:"slots,omitempty"`
	Payload    int64       `json:"payload-offset,omitempty"`
	Iterations int64       `json:"master-key-iters,omitempty"`
}

type qcow2Slot struct {
	Active     bool   `json:"active"`
	Iterations *int64 `json:"iters,omitempty"`
	Offset     int64  `json:"key-offset"`
	Stripes    *int64 `json:"stripes,omitempty"`
}

func qcow2Details(r io.ReaderAt, size int64) (Details, error) {
	h, err := qcow2.ReadHeader(r, size)
	if err != nil {
		return Details{}, err
	}
	snapshots, err := qcow2.ReadSnapshots(r, h, size)
	if err != nil {
		return Details{}, err
	}
	data, err := newQcow2Data(r, h)
	if err != nil {
		return Details{}, err
	}
	return Details{ClusterSize: h.ClusterSize(), Dirty: h.Dirty(), Snapshots: qcow2Snapshots(snapshots), Specific: &Specific{"qcow2", data}}, nil
}

func qcow2Snapshots(list []qcow2.Snapshot) []Snapshot {
	out := []Snapshot{}
	for _, s := range list {
		const second = 1e9
		i := Snapshot{ID: s.ID, Name: s.Name, DateSec: s.Seconds, DateNsec: s.Nanoseconds,
			ClockSec: s.Clock / second, ClockNsec: s.Clock % second, StateSize: s.StateSize}
		if s.Icount >= 0 {
			i.Icount = &s.Icount
		}
		out = append(out, i)
	}
	return out
}

func newQcow2Data(r io.ReaderAt, h qcow2.Header) (*qcow2Data, error) {
	bitmaps, err := qcow2.ReadBitmaps(r, h)
	if err != nil {
		return nil, err
	}
	encrypt, err := newQcow2Encrypt(r, h)
	if err != nil {
		return nil, err
	}
	i := &qcow2Data{Compat: "0.10", Compression: compressionName(h.CompressionType), RefcountBit: 1 << h.RefcountOrder, Encrypt: encrypt}
	for _, b := range bitmaps {
		i.Bitmaps = append(i.Bitmaps, qcow2Bitmap{bitmapFlags(b), b.Name, b.Granularity})
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

func newQcow2Encrypt(r io.ReaderAt, h qcow2.Header) (*qcow2Encrypt, error) {
	switch h.CryptMethod {
	case qcow2.CryptNone:
		return nil, nil
	case qcow2.CryptAES:
		return &qcow2Encrypt{Format: "aes"}, nil
	}
	l, err := qcow2.ReadLUKS(r, h)
	if err != nil {
		return nil, err
	}
	i := &qcow2Encrypt{Format: "luks", IV: l.IV, IVHash: l.IVHash, Hash: l.Hash, Cipher: l.Cipher, UUID: l.UUID,
		Mode: l.Mode, Payload: l.Payload, Iterations: l.Iterations}
	for _, s := range l.Slots {
		slot := qcow2Slot{Active: s.Active, Offset: s.Offset}
		if s.Active {
			slot.Iterations, slot.Stripes = &s.Iterations, &s.Stripes
		}
		i.Slots = append(i.Slots, slot)
	}
	return i, nil
}

// Fields is for people.
func (i *qcow2Data) Fields() []Field {
	fields := []Field{{1, "compat", i.Compat}, {1, "compression type", i.Compression}}
	if i.Lazy != nil {
		fields = append(fields, Field{1, "lazy refcounts", i.Lazy})
	}
	fields = append(fields, bitmapFields(i.Bitmaps)...)
	fields = append(fields, Field{1, "refcount bits", i.RefcountBit})
	if i.Encrypt != nil {
		fields = append(fields, encryptFields(i.Encrypt)...)
	}
	if i.DataFile != "" {
		fields = append(fields, Field{1, "data file", i.DataFile})
	}
	if i.DataFileRaw != nil {
		fields = append(fields, Field{1, "data file raw", i.DataFileRaw})
	}
	if i.Corrupt != nil {
		fields = append(fields, Field{1, "corrupt", i.Corrupt}, Field{1, "extended l2", i.ExtendedL2})
	}
	return fields
}

func bitmapFields(list []qcow2Bitmap) []Field {
	if len(list) == 0 {
		return nil
	}
	fields := []Field{{1, "bitmaps", nil}}
	for i, b := range list {
		fields = append(fields, Field{2, fmt.Sprintf("[%d]", i), nil}, Field{3, "flags", nil})
		for k, flag := range b.Flags {
			fields = append(fields, Field{4, fmt.Sprintf("[%d]", k), flag})
		}
		fields = append(fields, Field{3, "name", b.Name}, Field{3, "granularity", b.Granularity})
	}
	return fields
}

func encryptFields(e *qcow2Encrypt) []Field {
	fields := []Field{{1, "encrypt", nil}}
	if e.Format != "luks" {
		return append(fields, Field{2, "format", e.Format})
	}
	fields = append(fields, Field{2, "ivgen alg", e.IV}, Field{2, "hash alg", e.Hash},
		Field{2, "cipher alg", e.Cipher}, Field{2, "uuid", e.UUID})
	if e.IVHash != "" {
		fields = append(fields, Field{2, "ivgen hash alg", e.IVHash})
	}
	fields = append(fields, Field{2, "format", e.Format}, Field{2, "cipher mode", e.Mode}, Field{2, "slots", nil})
	for i, s := range e.Slots {
		fields = append(fields, Field{3, fmt.Sprintf("[%d]", i), nil}, Field{4, "active", s.Active})
		if s.Active {
			fields = append(fields, Field{4, "iters", *s.Iterations})
		}
		fields = append(fields, Field{4, "key offset", s.Offset})
		if s.Active {
			fields = append(fields, Field{4, "stripes", *s.Stripes})
		}
	}
	return append(fields, Field{2, "payload offset", e.Payload}, Field{2, "master key iters", e.Iterations})
}
