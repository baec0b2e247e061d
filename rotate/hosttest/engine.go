package hosttest

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// Engine merges the images of a Host.
type Engine struct{ On *Host }

func (e Engine) Overlay(_ context.Context, path string, below host.Layer) error {
	Must(os.WriteFile(path, make([]byte, 4096), 0o600)) // the header is written last
	return e.On.call("overlay", func() error {
		e.On.Store(path, Image{Format: "qcow2", Size: below.Size, Backing: below.Path, BackingFormat: below.Format, Blocks: Blocks{}})
		return nil
	})
}

func (e Engine) Check(context.Context, engine.Merge) error {
	return e.On.call("check", func() error { return e.On.EngineRefuses })
}

func (e Engine) Merge(ctx context.Context, m engine.Merge, progress func(done, total int64), then func() error) error {
	h := e.On
	var data Blocks
	var below, format string
	err := h.call("engine", func() error {
		if d := h.userOf(m.Top.Path); d != nil && d.State.Live() {
			return &vfs.BusyError{Path: m.Top.Path, Mode: vfs.LockRead}
		}
		data = Blocks{}
		base := slices.IndexFunc(m.Chain, func(l host.Layer) bool { return l.Path == m.Base.Path })
		if !m.Pull {
			base++
		} else if base > 0 {
			below, format = m.Chain[base-1].Path, m.Chain[base-1].Format
		}
		for k := base; k == 0 || m.Chain[k-1].Path != m.Top.Path; k++ {
			maps.Copy(data, h.Load(m.Chain[k].Path).Blocks)
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
	if err := e.fill(ctx, into, m.Pull, data, progress); err != nil {
		return err
	}
	err = h.call("relink", func() error {
		if relink != nil {
			h.Change(relink.Path, func(i *Image) { i.Backing, i.BackingFormat = below, format })
		}
		return nil
	})
	if err != nil {
		return err
	}
	return then()
}

// fill writes blocks into an image, one after the other.
func (e Engine) fill(ctx context.Context, into string, pull bool, data Blocks, progress func(done, total int64)) error {
	h := e.On
	for _, b := range slices.Sorted(maps.Keys(data)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		h.Mu.Lock()
		h.Change(into, func(i *Image) {
			if pull {
				i.fill(b, data)
			} else {
				i.Blocks[b] = data[b]
			}
		})
		h.Mu.Unlock()
		progress(1, 2)
		if err := h.Event("block of merge"); err != nil {
			return err
		}
	}
	return nil
}

// Graft builds the new layers.
func (e Engine) Graft(_ context.Context, g engine.Graft) error {
	h := e.On
	first := len(g.Chain) - len(g.Next)
	below := ""
	for i, next := range g.Next {
		old := g.Chain[first+i]
		err := h.call("clone", func() error {
			image := h.Load(old.Path)
			if below != "" {
				image.Backing, image.BackingFormat = below, h.Load(below).Format
			}
			if i == len(g.Next)-1 {
				image.Blocks = Blocks{}
			}
			h.Store(next, image)
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
			h.Change(below, func(i *Image) { maps.Copy(i.Blocks, h.Load(old.Path).Blocks) })
			return nil
		})
		if err != nil {
			return err
		}
	}
	return h.EngineRefuses
}

// userOf returns the domain that has the image in a chain.
func (h *Host) userOf(path string) *Domain {
	for _, d := range h.Guests {
		if d.Uses(path) {
			return d
		}
	}
	return nil
}
