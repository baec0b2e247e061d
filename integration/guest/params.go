package guest

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
)

//go:generate ./assemble.sh boot.S boot.bin
//go:embed boot.bin
var bootCode []byte

// Offsets of the parameters in the boot sector; see boot.S.
const (
	offSlots  = 8
	offStride = 12
	offBatch  = 16
	offPause  = 18
	offLength = 20
)

const (
	// SlotSize is the distance between neighbouring blocks on a disk, in bytes.
	SlotSize = 4096
	// bootDiskSize is in bytes: SeaBIOS does not boot from a disk of one sector.
	bootDiskSize = 1 << 20
)

// Params says what a guest writes, and how fast. Block k is written to the start of
// slot k × Stride mod Slots; slots are SlotSize bytes each, from the start of the disk.
type Params struct {
	Slots  uint32 // length of the ring, at least 2
	Stride uint32 // below Slots, without a common divisor
	Batch  uint16 // blocks for each dot on the serial line, at least 1
	Pause  uint16 // timer ticks (55 ms) to sleep after each batch; 0 for full speed
	// Length is in sectors, 1 … 8. QEMU's IDE writes each sector by itself, so that
	// a snapshot can tear a longer block; on a virtio bus it cannot.
	Length uint16
}

// DefaultParams is what a guest with disks of at least size bytes does unless told
// otherwise: some 145 blocks a second, scattered over the first 4 MiB at most.
func DefaultParams(size int64) Params {
	return Params{Pause: 1}.withDefaults(size)
}

// withDefaults fills in all zero fields but Pause.
func (p Params) withDefaults(size int64) Params {
	setDefault(&p.Slots, uint32(min(size/SlotSize, 1024)))
	setDefault(&p.Batch, 8)
	setDefault(&p.Length, 1)
	if p.Stride == 0 {
		// The golden ratio spreads successive blocks evenly.
		for p.Stride = uint32(float64(p.Slots) * 0.618); gcd(p.Slots, p.Stride) > 1; {
			p.Stride--
		}
	}
	return p
}

func (p Params) validate() error {
	switch {
	case p.Slots < 2:
		return fmt.Errorf("guest parameters: %d slots: want at least 2", p.Slots)
	case p.Stride == 0 || p.Stride >= p.Slots || gcd(p.Slots, p.Stride) != 1:
		return fmt.Errorf("guest parameters: stride %d does not reach all of %d slots", p.Stride, p.Slots)
	case p.Batch == 0:
		return fmt.Errorf("guest parameters: empty batch")
	case p.Length == 0 || p.Length > perSlot:
		return fmt.Errorf("guest parameters: block of %d sectors: want 1 to %d", p.Length, perSlot)
	}
	return nil
}

// slot is where block k goes.
func (p Params) slot(k uint64) uint64 {
	n := uint64(p.Slots)
	return k % n * uint64(p.Stride) % n
}

// bootSector is the program with its parameters filled in.
func (p Params) bootSector() []byte {
	le := binary.LittleEndian
	b := append([]byte(nil), bootCode...)
	le.PutUint32(b[offSlots:], p.Slots)
	le.PutUint32(b[offStride:], p.Stride)
	le.PutUint16(b[offBatch:], p.Batch)
	le.PutUint16(b[offPause:], p.Pause)
	le.PutUint16(b[offLength:], p.Length)
	return b
}

// WriteBootDisk makes the raw disk that a guest boots from.
func (p Params) WriteBootDisk(path string) error {
	if err := os.WriteFile(path, p.bootSector(), 0o644); err != nil {
		return err
	}
	return os.Truncate(path, bootDiskSize)
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
