package firmware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf16"
)

// A Variable is one of UEFI's.
type Variable struct {
	Name       string
	GUID       [16]byte // as it lies in memory
	Attributes uint32
	Time       [16]byte // EFI_TIME, of authenticated ones
	Data       []byte
}

// How XenServer keeps a guest's variables (xapidb-lib.c of varstored): "VARS", version, number
// of variables, bytes that they take; of each name and data with their lengths, GUID,
// attributes, time, and a hash of the certificate. Little-endian.
const (
	varstoredMark    = "VARS"
	varstoredVersion = 1
	varstoredHeader  = 4 + 4 + 8 + 8
	varstoredTail    = 16 + 4 + 16 + 32 // of each variable, behind its data
	mostVariables    = 1 << 12
)

var errVariables = errors.New("these are no UEFI variables as XenServer keeps them")

// Varstored reads the variables of a guest of XenServer.
func Varstored(blob []byte) (vars []Variable, err error) {
	le := binary.LittleEndian
	if len(blob) < varstoredHeader || string(blob[:4]) != varstoredMark || le.Uint32(blob[4:]) != varstoredVersion {
		return nil, errVariables
	}
	n, rest := le.Uint64(blob[8:]), blob[varstoredHeader:]
	if n > mostVariables {
		return nil, fmt.Errorf("%w: %d of them", errVariables, n)
	}
	for i := range n {
		name, after, ok := sized(rest)
		data, after, ok2 := sized(after)
		if !ok || !ok2 || len(after) < varstoredTail || len(name)%2 != 0 {
			return nil, fmt.Errorf("%w: number %d is cut off", errVariables, i)
		}
		v := Variable{Name: fromUTF16(name), Data: slices.Clone(data), Attributes: le.Uint32(after[16:])}
		copy(v.GUID[:], after)
		copy(v.Time[:], after[20:])
		vars, rest = append(vars, v), after[varstoredTail:]
	}
	return vars, nil
}

// sized is what stands behind its length.
func sized(b []byte) (data, rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint64(b)
	if b = b[8:]; n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

func fromUTF16(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// GUIDs of vendors (UEFI specification, 3.3; shim).
func globalGUID() [16]byte {
	return [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
}

func shimGUID() [16]byte {
	return [16]byte{0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23}
}

// ForBoot are those of the variables by which the guest finds its boot loader, and keys that
// its boot loader trusts. All others are about the machine that it had.
func ForBoot(vars []Variable) (kept []Variable) {
	for _, v := range vars {
		if v.GUID == globalGUID() && isBoot(v.Name) || v.GUID == shimGUID() && (v.Name == "MokList" || v.Name == "MokListX") {
			kept = append(kept, v)
		}
	}
	return kept
}

// isBoot is BootOrder and Boot0000 to BootFFFF.
func isBoot(name string) bool {
	if name == "BootOrder" {
		return true
	}
	if len(name) != 8 || name[:4] != "Boot" {
		return false
	}
	for _, c := range name[4:] {
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
