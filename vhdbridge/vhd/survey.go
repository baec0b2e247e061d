package vhd

import "io"

// A Survey is what an image tells of itself without its data being read.
type Survey struct {
	Info
	Allocated int64  // blocks that the table has for the disk
	Blocks    Blocks // which they are; of a fixed disk none are listed
}

// Look is ReadInfo and ReadAllocated in one, and sees that each block is within the
// file, and over no other one and no metadata. With an error, what footers and header
// could be made out to say of UUID, ParentUUID and ParentPath is in the Survey all the
// same.
func Look(r io.ReaderAt, size int64) (Survey, error) {
	m, err := load(r, size)
	if err != nil {
		return Survey{Info: remains(r, size)}, err
	}
	s := Survey{Info: m.info()}
	if m.foot.kind == Fixed {
		return s, nil
	}
	bat, err := m.readTable()
	if err != nil {
		return s, err
	}
	s.Allocated, s.Blocks = m.allocated(bat), m.blocksOf(bat)
	_, err = m.checkBlocks(bat, m.refuse)
	return s, err
}

// allocated counts the blocks of the disk that the table has.
func (m *meta) allocated(bat []uint32) (blocks int64) {
	for _, e := range bat[:m.head.blocks(m.foot.size)] {
		if e != unused {
			blocks++
		}
	}
	return blocks
}

// remains are the names in the sound parts of a damaged image.
func remains(r io.ReaderAt, size int64) (i Info) {
	m := &meta{r: io.NewSectionReader(r, 0, max(size, 0)), size: max(size, 0)}
	if m.loadFooters() == nil {
		i.UUID = m.foot.uuid
	}
	i.ParentPath, _ = FindParent(r, size)
	var b [headerLen]byte
	if size < headerStart+headerLen || readFull(r, b[:], headerStart, "header") != nil {
		return i
	}
	if h, err := decodeHeader(&b, headerStart); err == nil {
		i.ParentUUID = h.parentUUID
	}
	return i
}
