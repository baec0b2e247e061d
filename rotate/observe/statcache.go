package observe

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// neighbourAge is how old what a decision knows of an image beside the layers may be, and of
// the layers of other domains. A name that was not there before is always looked at. It is no
// more than libvirt's word on other domains may be before a file is deleted.
const neighbourAge = 2 * time.Second

// A statCache remembers for neighbourAge what files look like that lie beside the layers of
// the domain at work: one run looks at the host many times, and each time there would be
// thousands. Several goroutines may use it.
type statCache struct {
	mu    sync.Mutex // guards all below
	known map[string]glimpse
	era   int // how often all was forgotten: what was seen in an earlier one is not kept
}

// A glimpse is what there was at a path at one moment.
type glimpse struct {
	info vfs.Info
	err  error
	at   time.Time
}

// stat is what look said of path at most neighbourAge ago, or says now. What could not be
// looked at, or was not there, is looked at again each time.
func (c *statCache) stat(path string, look func(string) (vfs.Info, error)) (vfs.Info, error) {
	c.mu.Lock()
	g, known := c.known[path]
	era := c.era
	c.mu.Unlock()
	if known && time.Since(g.at) <= neighbourAge {
		return g.info, g.err
	}
	g = glimpse{at: time.Now()}
	g.info, g.err = look(path)
	if g.lasts() {
		c.keep(path, g, era)
	}
	return g.info, g.err
}

func (c *statCache) keep(path string, g glimpse, era int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if era != c.era {
		return
	}
	if c.known == nil {
		c.known = map[string]glimpse{}
	}
	c.known[path] = g
}

// lasts tells whether the glimpse is of something that does not change within a moment: a
// file, or what is no file.
func (g glimpse) lasts() bool {
	var kind *vfs.KindError
	return g.err == nil || errors.As(g.err, &kind)
}

// forget makes everything be looked at again.
func (c *statCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
	c.era++
}

// glance is vfs.Stat, as it was at most neighbourAge ago.
func (k *looker) glance(path string) (vfs.Info, error) { return k.stats.stat(path, k.stat) }

// leads tells whether there is something at path, or where a link at path leads to.
func (k *looker) leads(path string) bool {
	_, err := k.glance(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// place notes what a path leads to that a directory has just told. What the domain at work
// asks for was looked at before.
func (k *looker) place(w *World, path string) {
	if _, known := w.Places[path]; known {
		return
	}
	p := Place{Key: path, There: true}
	if info, err := k.glance(path); err == nil {
		p.Key = host.LayerKey(info.ID, path)
	}
	w.Places[path] = p
}
