package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"
)

// The file with OVMF's variables (MdeModulePkg/Include/Guid/VariableFormat.h of edk2): a
// firmware volume, whose header tells where the store begins; the store's header; variables
// one behind the other, each aligned to 4 bytes; bytes 0xFF up to the end.
const (
	fvMark       = "_FVH"
	fvMarkAt     = 40
	fvHeaderSize = 48 // u16: length of the volume's header

	storeSize   = 16 // u32: length of the store, header included
	storeFormat = 20 // u8
	storeState  = 21 // u8
	storeHeader = 28

	formatted = 0x5a
	healthy   = 0xfe

	varStart  = 0x55aa
	varAdded  = 0x3f
	varHeader = 60
	varAlign  = 4
)

// storeGUID is that of a store of authenticated variables.
func storeGUID() []byte {
	return []byte{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}
}

var errStore = errors.New("it is no store of UEFI variables that OVMF could use")

// store is the place of the variables in a file.
func store(file []byte) (from, to int, err error) {
	le := binary.LittleEndian
	if len(file) < fvHeaderSize+2 || string(file[fvMarkAt:fvMarkAt+4]) != fvMark {
		return 0, 0, errStore
	}
	at := int(le.Uint16(file[fvHeaderSize:]))
	if at+storeHeader > len(file) || !bytes.Equal(file[at:at+16], storeGUID()) || file[at+storeFormat] != formatted || file[at+storeState] != healthy {
		return 0, 0, errStore
	}
	n := int64(le.Uint32(file[at+storeSize:]))
	if n < storeHeader || n > int64(len(file)-at) {
		return 0, 0, errStore
	}
	return align(at + storeHeader), at + int(n), nil
}

func align(n int) int { return (n + varAlign - 1) &^ (varAlign - 1) }

// end is where the next variable goes.
func end(file []byte, from, to int) (int, error) {
	le := binary.LittleEndian
	for at := from; ; {
		if at+varHeader > to || le.Uint16(file[at:]) != varStart {
			return at, nil
		}
		n := int64(varHeader) + int64(le.Uint32(file[at+36:])) + int64(le.Uint32(file[at+40:]))
		if n > int64(to-at) {
			return 0, errStore
		}
		at = align(at + int(n))
	}
}

// WithVariables is a copy of a file with OVMF's variables, as new guests get one, that has
// these as well.
func WithVariables(template []byte, vars []Variable) ([]byte, error) {
	file := slices.Clone(template)
	from, to, err := store(file)
	if err != nil {
		return nil, err
	}
	at, err := end(file, from, to)
	if err != nil {
		return nil, err
	}
	for _, v := range vars {
		b := v.encode()
		if at+len(b) > to {
			return nil, fmt.Errorf("the variables do not fit into %d bytes", to-from)
		}
		copy(file[at:], b)
		at = align(at + len(b))
	}
	return file, nil
}

func (v *Variable) encode() []byte {
	le := binary.LittleEndian
	name := utf16.Encode([]rune(v.Name + "\x00"))
	b := le.AppendUint16(nil, varStart)
	b = append(b, varAdded, 0)
	b = le.AppendUint32(b, v.Attributes)
	b = le.AppendUint64(b, 0) // count of authenticated writes: not in use any more
	b = append(b, v.Time[:]...)
	b = le.AppendUint32(b, 0) // index of the key: likewise
	b = le.AppendUint32(b, uint32(2*len(name)))
	b = le.AppendUint32(b, uint32(len(v.Data)))
	b = append(b, v.GUID[:]...)
	for _, u := range name {
		b = le.AppendUint16(b, u)
	}
	return append(b, v.Data...)
}
