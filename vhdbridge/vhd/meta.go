package vhd

import (
	"errors"
	"fmt"
	"io"
)

// An ending is what was found at the end of a file.
type ending int

const (
	endMissing ending = iota // no footer, or a damaged one
	endValid
	endShort // of 511 bytes
	endInUse // 512 bytes of 0xC7
)

// A meta is what an image says of itself, read but for the table of blocks.
type meta struct {
	r       io.ReaderAt // the file, as if a durable record had been carried out
	size    int64       // of r, in bytes
	foot    footer
	end     ending
	copied  bool   // the footer at 0 is valid, too
	copy    footer // that one
	at      int64  // of the header; the rest is of dynamic and differencing disks only
	head    header
	parent  string // path
	batmap  batmap
	pending *record // durable, not carried out yet
	torn    bool    // behind r there is the beginning of a record that never counted
}

// load reads r, which has size bytes, in few reads.
func load(r io.ReaderAt, size int64) (*meta, error) {
	size = max(size, 0)
	m := &meta{r: io.NewSectionReader(r, 0, size), size: size}
	err := m.loadFooters()
	if err != nil {
		return nil, err
	}
	if m.foot.kind == Fixed {
		return m, m.checkFixed()
	}
	if err := m.loadHeader(); err != nil {
		return nil, err
	}
	return m, m.loadBatmap()
}

// loadFooters finds the footer that counts: the one at the end, as it is for
// XenServer, else its copy. If there is a record behind the file, r is what it makes
// of the file.
func (m *meta) loadFooters() error {
	endErr := m.loadEnd()
	if m.end == endValid && m.foot.hasMark() {
		c, whole, err := readRecord(m.r, m.size, &m.foot)
		if err != nil {
			return err
		}
		m.size, m.torn = c.oldSize, !whole
		m.foot = m.foot.withoutMark()
		if whole {
			m.r, m.size, m.pending = newPatched(m.r, c), c.newSize, c
			endErr = m.loadEnd()
		}
	}
	if isRefusal(endErr) || m.end == endValid && m.foot.kind == Fixed {
		return endErr
	}
	copyErr := m.loadCopy()
	switch {
	case isRefusal(copyErr):
		return copyErr
	case m.end == endValid || m.end == endShort:
		return m.compareFooters()
	case copyErr == nil && m.copy.kind != Fixed:
		m.foot = m.copy
		return nil
	case errors.Is(copyErr, ErrNotVHD) && endErr != nil:
		return endErr
	case copyErr == nil:
		return ErrNotVHD // a guest of a raw disk can write that
	}
	return copyErr
}

// isRefusal tells that an image says what must not be overlooked.
func isRefusal(err error) bool {
	var unsupported *UnsupportedError
	var malformed *FormatError
	return err != nil && !errors.As(err, &malformed) && !errors.Is(err, ErrNotVHD) || errors.As(err, &unsupported)
}

// loadEnd looks at the end of the file.
func (m *meta) loadEnd() error {
	var b [footerLen]byte
	m.end = endMissing
	if m.size < shortFooterLen {
		return ErrNotVHD
	}
	at := max(m.size-footerLen, 0)
	n := m.size - at
	if err := readFull(m.r, b[:n], at, "footer"); err != nil {
		return err
	}
	if n == footerLen && allBytes(b[:], inUseByte) {
		m.end = endInUse
		return ErrNotVHD
	}
	f, err := decodeFooter(&b, at)
	if err == nil && n == footerLen {
		m.foot, m.end = f, endValid
		return nil
	}
	if n == footerLen {
		copy(b[:], b[1:])
		b[shortFooterLen] = 0
		at++
	}
	short, shortErr := decodeFooter(&b, at)
	if shortErr == nil {
		m.foot, m.end = short, endShort
		return nil
	}
	if n < footerLen || isRefusal(shortErr) {
		return shortErr
	}
	return err
}

func allBytes(b []byte, c byte) bool {
	for _, have := range b {
		if have != c {
			return false
		}
	}
	return true
}

// loadCopy looks at the copy at 0.
func (m *meta) loadCopy() (err error) {
	var b [footerLen]byte
	if m.size < footerLen {
		return ErrNotVHD
	}
	if err := readFull(m.r, b[:], 0, "copy of the footer"); err != nil {
		return err
	}
	m.copy, err = decodeFooter(&b, 0)
	m.copied = err == nil
	return err
}

// compareFooters wants both of the same disk. The hidden flag of very old
// versions of XenServer is in the copy only.
func (m *meta) compareFooters() error {
	if !m.copied {
		return nil
	}
	if m.copy.uuid != m.foot.uuid || m.copy.kind != m.foot.kind || m.copy.dataOffset != m.foot.dataOffset {
		return malformed(m.size-footerLen, "footer", "it is of another disk than its copy at 0")
	}
	if m.foot.oldTap() {
		m.foot.hidden = m.copy.hidden
	}
	return nil
}

// agrees tells whether the copy says the same as the footer.
func (m *meta) agrees() bool { return m.copied && m.copy == m.foot }

func (m *meta) footerLen() int64 {
	switch m.end {
	case endValid, endInUse:
		return footerLen
	case endShort:
		return shortFooterLen
	case endMissing:
	}
	return 0
}

// limit is where the end footer begins: all else is before it.
func (m *meta) limit() int64 { return m.size - m.footerLen() }

func (m *meta) checkFixed() error {
	if m.foot.size > m.limit() {
		return malformed(m.limit()+offCurrentSize, "current size", "the file is smaller")
	}
	return nil
}

// loadHeader reads the header, and the names of the parent.
func (m *meta) loadHeader() (err error) {
	m.at = m.foot.dataOffset
	var b [headerLen]byte
	if m.at > m.limit()-headerLen {
		return malformed(offDataOffset, "data offset", "the header is beyond the end of the file")
	}
	if err := readFull(m.r, b[:], m.at, "header"); err != nil {
		return err
	}
	if m.head, err = decodeHeader(&b, m.at); err != nil {
		return err
	}
	if m.head.table > m.limit()-m.head.tableBytes() {
		return malformed(m.at+offTable, "table offset", "the table reaches beyond the end of the file")
	}
	if n := m.head.blocks(m.foot.size); n > int64(m.head.entries) {
		return malformed(m.at+offMaxEntries, "max table entries", fmt.Sprintf("%d, and the disk has %d blocks", m.head.entries, n))
	}
	if m.foot.kind == Differencing {
		m.parent, err = m.head.readParent(m.r, m.limit(), m.at)
	}
	return err
}

// usable refuses what must not be read for its data, or changed.
func (m *meta) usable() error {
	if m.end == endInUse {
		return errInUse
	}
	return nil
}

var errInUse = unsupported("the image is marked as in use (its last 512 bytes are 0xC7): a tapdisk of a XenServer host writes to it, or has crashed; if no host uses it, image check -r all restores the footer")
