package history

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt maps the file and trusts what it finds: a branch that leads back to
// itself overflows the stack, and that ends the process past any recover. So
// every page that bbolt can come to is looked at first, with plain reads. This
// file knows the layout of bbolt's file format, version 2 (bbolt's packages
// internal/common: page.go, meta.go, bucket.go), which is in the byte order of the host:
//
//	page     id 8, flags 2, count 2, overflow 4 (further pages of the size of one)
//	meta     after the header: magic 4, version 4, page size 4, flags 4, root page 8,
//	         root sequence 8, freelist page 8, pages in use 8, transaction 8, FNV-1a of these 8
//	branch   count times: pos 4 (of the key, from here), key size 4, page 8
//	leaf     count times: flags 4, pos 4, key size 4, value size 4; the value follows the key
//	bucket   a leaf's value: root page 8 (0: the page follows right here), sequence 8
//	freelist count times: page 8; where count is 65535 the first of them is the count
const (
	magic         = 0xED0CDAED
	formatVersion = 2
	headerLen     = 16
	metaLen       = 64
	elementLen    = 16
	bucketLen     = 16

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf's element

	minPage   = 512
	maxPage   = 1 << 16
	maxDepth  = 32       // a tree of this depth could not be stored
	maxNode   = 64 << 20 // bytes of one page with its overflow; the freelist is the longest
	firstPage = 2        // after the two metas
)

// maxFile bounds what is read at all. Store.Max entries take a tenth of it.
const maxFile = 2 << 30

type meta struct {
	pageSize             int64
	root, freelist, used uint64
	txid                 uint64
}

// A checker walks over the pages of a file of that size.
type checker struct {
	r    io.ReaderAt
	size int64
	meta meta
	seen []bool // pages that something refers to
}

// checkFile tells whether bbolt can work on the file without harm. What is in
// the values is not looked at.
func checkFile(r io.ReaderAt, size int64) error {
	c := &checker{r: r, size: size}
	if err := c.readMeta(); err != nil {
		return err
	}
	c.seen = make([]bool, c.meta.used)
	if err := c.tree(c.meta.root, 0, span{}); err != nil {
		return err
	}
	return c.freelist()
}

// readMeta takes the newest of the two metas that is whole, as bbolt does.
func (c *checker) readMeta() error {
	first, ok := c.metaAt(0)
	for at := int64(minPage); !ok && at <= maxPage; at *= 2 { // the first is torn: its page size is not known
		first, ok = c.metaAt(at)
		ok = ok && first.pageSize == at
	}
	if !ok {
		return fmt.Errorf("no valid header")
	}
	c.meta = first
	if second, ok := c.metaAt(first.pageSize); ok && second.pageSize == first.pageSize && second.txid > first.txid {
		c.meta = second
	}
	if m := c.meta; m.used <= firstPage || m.used > uint64(c.size/m.pageSize) {
		return fmt.Errorf("%d pages of %d bytes in a file of %d", m.used, m.pageSize, c.size)
	}
	return nil
}

func (c *checker) metaAt(at int64) (meta, bool) {
	var b [headerLen + metaLen]byte
	if _, err := c.r.ReadAt(b[:], at); err != nil {
		return meta{}, false
	}
	ne, m := binary.NativeEndian, b[headerLen:]
	sum := fnv.New64a()
	sum.Write(m[:56]) // never fails
	if ne.Uint32(m) != magic || ne.Uint32(m[4:]) != formatVersion || ne.Uint64(m[56:]) != sum.Sum64() {
		return meta{}, false
	}
	found := meta{int64(ne.Uint32(m[8:])), ne.Uint64(m[16:]), ne.Uint64(m[32:]), ne.Uint64(m[40:]), ne.Uint64(m[48:])}
	size := found.pageSize
	return found, size >= minPage && size <= maxPage && size&(size-1) == 0
}

// A span is where the keys of a page must lie: from low on, and below high. No
// high means no bound.
type span struct{ low, high []byte }

// holds tells whether key may follow after the one before it.
func (s *span) holds(key, before []byte, first bool) bool {
	return bytes.Compare(key, s.low) >= 0 && (s.high == nil || bytes.Compare(key, s.high) < 0) &&
		(first || bytes.Compare(before, key) < 0)
}

// tree looks at a page and at all below it.
func (c *checker) tree(id uint64, depth int, keys span) error {
	if depth > maxDepth {
		return fmt.Errorf("page %d: the tree is too deep", id)
	}
	b, err := c.page(id)
	if err != nil {
		return err
	}
	switch binary.NativeEndian.Uint16(b[8:]) {
	case flagBranch:
		return c.branch(id, b, depth, keys)
	case flagLeaf:
		return c.leaf(id, b, depth, keys, false)
	}
	return fmt.Errorf("page %d is neither branch nor leaf", id)
}

// page reads a page with its overflow and notes that something refers to it.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < firstPage || id >= c.meta.used {
		return nil, fmt.Errorf("page %d of %d", id, c.meta.used)
	}
	var head [headerLen]byte
	if _, err := c.r.ReadAt(head[:], int64(id)*c.meta.pageSize); err != nil {
		return nil, err
	}
	ne := binary.NativeEndian
	pages := 1 + uint64(ne.Uint32(head[12:]))
	if ne.Uint64(head[:]) != id || pages > c.meta.used-id || int64(pages)*c.meta.pageSize > maxNode {
		return nil, fmt.Errorf("page %d has the header of another, or is too long", id)
	}
	for i := id; i < id+pages; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is referred to twice", i)
		}
		c.seen[i] = true
	}
	b := make([]byte, int64(pages)*c.meta.pageSize)
	if _, err := c.r.ReadAt(b, int64(id)*c.meta.pageSize); err != nil {
		return nil, err
	}
	return b, nil
}

// An element is one of a page: a key with a page below it, or with a value.
type element struct {
	flags uint32
	key   []byte
	page  uint64
	value []byte
}

// elements reads the table of a branch or leaf; all keys and values lie in the
// page, and the keys are in order.
func elements(id uint64, b []byte, keys span, branch bool) ([]element, error) {
	ne := binary.NativeEndian
	n := int(ne.Uint16(b[10:]))
	if headerLen+n*elementLen > len(b) {
		return nil, fmt.Errorf("page %d: %d elements in %d bytes", id, n, len(b))
	}
	list := make([]element, n)
	for i := range list {
		at := headerLen + i*elementLen
		e := b[at : at+elementLen]
		flags, pos, ksize, vsize := ne.Uint32(e), ne.Uint32(e[4:]), ne.Uint32(e[8:]), ne.Uint32(e[12:])
		if branch {
			flags, pos, ksize, vsize = 0, ne.Uint32(e), ne.Uint32(e[4:]), 0
			list[i].page = ne.Uint64(e[8:])
		}
		start, end := uint64(at)+uint64(pos), uint64(at)+uint64(pos)+uint64(ksize)+uint64(vsize)
		if end > uint64(len(b)) || flags > flagBucket {
			return nil, fmt.Errorf("page %d: element %d is outside of it, or of an unknown kind", id, i)
		}
		list[i].flags, list[i].key, list[i].value = flags, b[start:start+uint64(ksize)], b[start+uint64(ksize):end]
		if !keys.holds(list[i].key, list[max(i-1, 0)].key, i == 0) {
			return nil, fmt.Errorf("page %d: key %d is not in order", id, i)
		}
	}
	return list, nil
}

func (c *checker) branch(id uint64, b []byte, depth int, keys span) error {
	list, err := elements(id, b, keys, true)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("page %d: a branch that leads nowhere", id)
	}
	for i, e := range list {
		below := span{e.key, keys.high}
		if i+1 < len(list) {
			below.high = list[i+1].key
		}
		if err := c.tree(e.page, depth+1, below); err != nil {
			return err
		}
	}
	return nil
}

// leaf looks at a leaf page, or, inline, at one within a bucket's value.
func (c *checker) leaf(id uint64, b []byte, depth int, keys span, inline bool) error {
	list, err := elements(id, b, keys, false)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.flags != flagBucket {
			continue
		}
		if inline {
			return fmt.Errorf("page %d: a bucket in an inline bucket", id)
		}
		if err := c.bucket(id, e.value, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketLen {
		return fmt.Errorf("page %d: a bucket of %d bytes", id, len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(root, depth+1, span{})
	}
	page := value[bucketLen:]
	if len(page) < headerLen || binary.NativeEndian.Uint16(page[8:]) != flagLeaf {
		return fmt.Errorf("page %d: an inline bucket that is no leaf", id)
	}
	return c.leaf(id, page, depth, span{}, true)
}

// freelist sees that no page is free that something refers to, or twice.
func (c *checker) freelist() error {
	b, err := c.page(c.meta.freelist)
	if err != nil {
		return err
	}
	ne := binary.NativeEndian
	if ne.Uint16(b[8:]) != flagFreelist {
		return fmt.Errorf("page %d is no freelist", c.meta.freelist)
	}
	n, ids := uint64(ne.Uint16(b[10:])), b[headerLen:]
	if n == 0xffff {
		n, ids = ne.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		return fmt.Errorf("freelist of %d pages in %d bytes", n, len(ids))
	}
	for i := range n {
		id := ne.Uint64(ids[8*i:])
		if id < firstPage || id >= c.meta.used || c.seen[id] {
			return fmt.Errorf("page %d is free and in use, or not there", id)
		}
		c.seen[id] = true
	}
	return nil
}
