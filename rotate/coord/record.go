package coord

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// The file hosts is a table: a place of 1024 bytes for each host, with two records of 512,
// of which the one with the higher generation counts. A record that is being written when the
// power fails spoils only itself:
//
//	0    8  CRC-32C of bytes 9 … 511, in hexadecimal
//	8    1  a space
//	9  502  JSON, filled up with spaces
//	511  1  a newline
const (
	recordSize = 512
	placeSize  = 2 * recordSize
	mostHosts  = 1024
	sumSize    = 9 // bytes of the checksum, and the space
)

// A record is what the table has of a host.
type record struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"`
	When       time.Time `json:"when"`
	Inode      uint64    `json:"inode"` // of the file storage.json, as the host sees it
	File       int       `json:"file"`  // 0 or 1: which of its two files has what it has told
	Size       int64     `json:"size"`  // bytes of that
	Sum        string    `json:"sum"`   // SHA-256 of that, in hexadecimal
	Locks      Crossing  `json:"locks,omitempty"`
	Mount      string    `json:"mount,omitempty"` // with which mount, and since which start of the host, it has found that out
	Gone       bool      `json:"gone,omitempty"`  // it was forgotten: the place is free
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoRecord says that nothing was ever written there.
var errNoRecord = errors.New("no record")

// encode fails only for what is too long.
func (r *record) encode() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(text) > recordSize-sumSize-1 {
		return nil, fmt.Errorf("the record of host %q takes %d bytes", r.Name, len(text))
	}
	b := bytes.Repeat([]byte{' '}, recordSize)
	copy(b[sumSize:], text)
	b[recordSize-1] = '\n'
	copy(b, fmt.Sprintf("%08x", crc32.Checksum(b[sumSize:], castagnoli)))
	return b, nil
}

// decodeRecord returns errNoRecord for zeros, and another error for what is damaged.
func decodeRecord(b []byte) (record, error) {
	var r record
	if len(bytes.Trim(b, "\x00")) == 0 {
		return r, errNoRecord
	}
	if len(b) != recordSize || string(b[:sumSize]) != fmt.Sprintf("%08x ", crc32.Checksum(b[sumSize:], castagnoli)) {
		return r, errors.New("its checksum is wrong")
	}
	if err := json.Unmarshal(b[sumSize:], &r); err != nil {
		return r, err
	}
	return r, r.check()
}

// check refuses what no host has written.
func (r *record) check() error {
	switch {
	case !isUUID(r.ID):
		return errors.New("it names no host")
	case r.Size < 0 || r.Size > mostTold:
		return fmt.Errorf("it speaks of %d bytes", r.Size)
	case r.File != 0 && r.File != 1:
		return fmt.Errorf("it speaks of file %d", r.File)
	case len(r.Sum) != 64:
		return errors.New("it has no checksum of what was told")
	}
	return nil
}

// decodePlace returns the record that counts of a host's place, and whether it is the second.
func decodePlace(b []byte) (record, int, error) {
	first, err1 := decodeRecord(b[:recordSize])
	second, err2 := decodeRecord(b[recordSize:placeSize])
	switch {
	case err1 == nil && (err2 != nil || first.Generation >= second.Generation):
		return first, 0, nil
	case err2 == nil:
		return second, 1, nil
	case errors.Is(err1, errNoRecord) && errors.Is(err2, errNoRecord):
		return record{}, 0, errNoRecord
	case errors.Is(err1, errNoRecord):
		return record{}, 0, err2
	}
	return record{}, 0, err1
}

// isUUID tells whether text is a UUID in small letters, as those of hosts and storages are.
func isUUID(text string) bool {
	if len(text) != 36 {
		return false
	}
	for i, c := range text {
		if (i == 8 || i == 13 || i == 18 || i == 23) != (c == '-') || c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
