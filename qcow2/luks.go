package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// The header of LUKS version 1 (cryptsetup, "LUKS On-Disk Format"), big endian,
// and one of its eight key slots.
//
//	  0 magic        6 version      8 cipher      40 mode        72 hash
//	104 payload    108 key bytes  112 digest     132 salt       164 iterations
//	168 uuid       208 key slots, each:
//	  0 active       4 iterations   8 salt        40 offset      44 stripes
const (
	luksMagic         = "LUKS\xba\xbe"
	offLUKSVersion    = 6
	offLUKSCipher     = 8
	offLUKSMode       = 40
	offLUKSHash       = 72
	offLUKSPayload    = 104
	offLUKSKeyBytes   = 108
	offLUKSIterations = 164
	offLUKSUUID       = 168
	offLUKSSlots      = 208
	luksTextLen       = 32
	luksUUIDLen       = 40
	luksSlots         = 8
	luksSlotLen       = 48
	luksActive        = 0x00ac71f3
	offSlotIterations = 4
	offSlotOffset     = 40
	offSlotStripes    = 44
)

// LUKS is what the header of an encrypted image says; nothing in it is secret.
// Offsets are bytes from the start of the LUKS header.
type LUKS struct {
	Cipher, Mode, Hash string // as QEMU names them: "aes-256", "xts", "sha256"
	IV, IVHash         string // "plain64"; IVHash is "" where there is none
	UUID               string
	Payload            int64
	Iterations         int64
	Slots              []LUKSSlot
}

// A LUKSSlot is a place for a key.
type LUKSSlot struct {
	Active              bool
	Iterations, Stripes int64
	Offset              int64
}

// ReadLUKS reads the LUKS header of the image r, whose header is h.
func ReadLUKS(r io.ReaderAt, h Header) (LUKS, error) {
	var b [minCryptHeader]byte
	at := h.CryptHeaderOffset
	if h.CryptMethod != CryptLUKS {
		return LUKS{}, fmt.Errorf("qcow2: the image is not encrypted with LUKS")
	}
	if err := readFull(r, b[:], at, "LUKS header"); err != nil {
		return LUKS{}, err
	}
	if string(b[:len(luksMagic)]) != luksMagic {
		return LUKS{}, malformed(at, "LUKS header", "the magic is missing")
	}
	if v := binary.BigEndian.Uint16(b[offLUKSVersion:]); v != 1 {
		return LUKS{}, unsupported(fmt.Sprintf("LUKS version %d", v))
	}
	return decodeLUKS(&b), nil
}

func decodeLUKS(b *[minCryptHeader]byte) LUKS {
	be := binary.BigEndian
	l := LUKS{
		Hash:       luksText(b[offLUKSHash:][:luksTextLen]),
		UUID:       luksText(b[offLUKSUUID:][:luksUUIDLen]),
		Payload:    int64(be.Uint32(b[offLUKSPayload:])) * sectorSize,
		Iterations: int64(be.Uint32(b[offLUKSIterations:])),
	}
	var iv string
	l.Mode, iv, _ = strings.Cut(luksText(b[offLUKSMode:][:luksTextLen]), "-")
	l.IV, l.IVHash, _ = strings.Cut(iv, ":")
	bits := int64(be.Uint32(b[offLUKSKeyBytes:])) * 8
	if l.Mode == "xts" {
		bits /= 2 // two keys
	}
	l.Cipher = fmt.Sprintf("%s-%d", luksText(b[offLUKSCipher:][:luksTextLen]), bits)
	for i := range luksSlots {
		s := b[offLUKSSlots+i*luksSlotLen:]
		l.Slots = append(l.Slots, LUKSSlot{
			be.Uint32(s) == luksActive, int64(be.Uint32(s[offSlotIterations:])),
			int64(be.Uint32(s[offSlotStripes:])), int64(be.Uint32(s[offSlotOffset:])) * sectorSize,
		})
	}
	return l
}

// luksText is a text that NULs fill up.
func luksText(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
