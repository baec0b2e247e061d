package qcow2

import (
	"bytes"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// A patcher changes tables in place, a cluster at a time. Changes to one
// cluster after the other are written once for each.
type patcher struct {
	f       vfs.File
	size    int64 // of the file, bytes
	at      int64 // of b, -1 for none
	b, old  []byte
	changed bool // anything since the last sync
}

func newPatcher(f vfs.File, size int64, l layout) *patcher {
	return &patcher{f: f, size: size, at: -1, b: make([]byte, l.cluster()), old: make([]byte, l.cluster())}
}

// patch applies change to the cluster at a multiple of the cluster size.
func (p *patcher) patch(at int64, change func(cluster []byte)) error {
	if at != p.at {
		if err := p.write(); err != nil {
			return err
		}
		if err := readPadded(p.f, p.b, at, p.size); err != nil {
			return err
		}
		copy(p.old, p.b)
		p.at = at
	}
	change(p.b)
	return nil
}

// write writes what has been changed, and not more.
func (p *patcher) write() error {
	if p.at < 0 || bytes.Equal(p.b, p.old) {
		return nil
	}
	from, end := 0, len(p.b)
	for p.b[from] == p.old[from] {
		from++
	}
	for p.b[end-1] == p.old[end-1] {
		end--
	}
	p.changed = true
	_, err := p.f.WriteAt(p.b[from:end], p.at+int64(from))
	copy(p.old, p.b)
	return err
}

// sync makes the changes durable, if there are any.
func (p *patcher) sync() error {
	if err := p.write(); err != nil || !p.changed {
		return err
	}
	p.changed = false
	return p.f.Sync()
}
