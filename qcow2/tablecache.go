package qcow2

import "container/list"

// cacheBytes bounds the L2 tables that an Image keeps: with clusters of 64 KiB they map 64 GiB.
const cacheBytes = 8 << 20

// A tableCache keeps the tables that were used last. Tables are one cluster
// long. What it returns is its own, and changes when Image changes the table.
type tableCache struct {
	m     *Image
	max   int
	byOff map[int64]*list.Element
	order *list.List // of *cachedTable, the last used first
	last  *cachedTable
}

type cachedTable struct {
	off  int64
	data []byte
}

func newTableCache(m *Image, bytes int64) *tableCache {
	return &tableCache{m: m, max: max(2, int(bytes/m.cluster())), byOff: map[int64]*list.Element{}, order: list.New()}
}

// get returns the table at host offset off.
func (c *tableCache) get(off int64) ([]byte, error) {
	if c.last != nil && c.last.off == off {
		return c.last.data, nil
	}
	if e := c.byOff[off]; e != nil {
		c.order.MoveToFront(e)
		c.last = e.Value.(*cachedTable)
		return c.last.data, nil
	}
	data := c.room()
	if err := readFull(c.m.f, data, off, "L2 table"); err != nil {
		return nil, err
	}
	if err := c.m.checkL2Shares(data, off); err != nil {
		return nil, err
	}
	c.put(off, data)
	return data, nil
}

// room returns memory for one more table, of the one used longest ago if need be.
func (c *tableCache) room() []byte {
	if len(c.byOff) < c.max {
		return make([]byte, c.m.cluster())
	}
	oldest := c.order.Remove(c.order.Back()).(*cachedTable)
	delete(c.byOff, oldest.off)
	if c.last == oldest {
		c.last = nil
	}
	return oldest.data
}

// put keeps data as the table at off.
func (c *tableCache) put(off int64, data []byte) {
	c.drop(off)
	c.last = &cachedTable{off, data}
	c.byOff[off] = c.order.PushFront(c.last)
}

// drop forgets the table at off.
func (c *tableCache) drop(off int64) {
	if e := c.byOff[off]; e != nil {
		c.order.Remove(e)
		delete(c.byOff, off)
		if c.last != nil && c.last.off == off {
			c.last = nil
		}
	}
}
