package rotate

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// simEngine merges the images of a simHost.
type simEngine struct{ h *simHost }

func (e simEngine) Overlay(_ context.Context, path string, below host.Layer) error {
	must(os.WriteFile(path, make([]byte, 4096), 0o600)) // the header is written last
	return e.h.call("overlay", func() error {
		e.h.store(path, simImage{Format: "qcow2", Size: below.Size, Backing: below.Path, BackingFormat: below.Format, Blocks: blocks{}})
		return nil
	})
}

func (e simEngine) Check(context.Context, engine.Merge) error {
	return e.h.call("check", func() error { return e.h.engineRefuses })
}

func (e simEngine) Merge(ctx context.Context, m engine.Merge, progress func(done, total int64), then func() error) error {
	h := e.h
	var data blocks
	var below, format string
	err := h.call("engine", func() error {
		if d := h.userOf(m.Top.Path); d != nil && d.State.Live() {
			return &vfs.BusyError{Path: m.Top.Path, Mode: vfs.LockRead}
		}
		data = blocks{}
		base := slices.IndexFunc(m.Chain, func(l host.Layer) bool { return l.Path == m.Base.Path })
		if !m.Pull {
			base++
		} else if base > 0 {
			below, format = m.Chain[base-1].Path, m.Chain[base-1].Format
		}
		for k := base; k == 0 || m.Chain[k-1].Path != m.Top.Path; k++ {
			maps.Copy(data, h.load(m.Chain[k].Path).Blocks)
		}
		return nil
	})
	if err != nil {
		return err
	}
	into, relink := m.Base.Path, m.Above
	if m.Pull {
		into, relink = m.Top.Path, &m.Top
	} else {
		below, format = m.Base.Path, m.Base.Format
	}
	for _, b := range slices.Sorted(maps.Keys(data)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		h.mu.Lock()
		h.change(into, func(i *simImage) {
			if m.Pull {
				i.fill(b, data)
			} else {
				i.Blocks[b] = data[b]
			}
		})
		h.mu.Unlock()
		progress(1, 2)
		if err := h.event("block of merge"); err != nil {
			return err
		}
	}
	err = h.call("relink", func() error {
		if relink != nil {
			h.change(relink.Path, func(i *simImage) { i.Backing, i.BackingFormat = below, format })
		}
		return nil
	})
	if err != nil {
		return err
	}
	return then()
}

// Graft builds the new layers.
func (e simEngine) Graft(_ context.Context, g engine.Graft) error {
	h := e.h
	first := len(g.Chain) - len(g.Next)
	below := ""
	for i, next := range g.Next {
		old := g.Chain[first+i]
		err := h.call("clone", func() error {
			image := h.load(old.Path)
			if below != "" {
				image.Backing, image.BackingFormat = below, h.load(below).Format
			}
			if i == len(g.Next)-1 {
				image.Blocks = blocks{}
			}
			h.store(next, image)
			return nil
		})
		if err != nil {
			return err
		}
		if !g.Goes[i] {
			below = next
			continue
		}
		err = h.call("merge clones", func() error {
			h.change(below, func(i *simImage) { maps.Copy(i.Blocks, h.load(old.Path).Blocks) })
			return nil
		})
		if err != nil {
			return err
		}
	}
	return h.engineRefuses
}

// userOf returns the domain that has the image in a chain.
func (h *simHost) userOf(path string) *simDomain {
	for _, d := range h.domains {
		if d.Uses(path) {
			return d
		}
	}
	return nil
}
