package image

import (
	"errors"
	"fmt"

	"github.com/virt-rotate/virt-rotate/internal/chain"
	"github.com/virt-rotate/virt-rotate/internal/cli/images"
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/convert"
	"github.com/virt-rotate/virt-rotate/internal/formats"
)

// pickState lets a conversion be of an internal snapshot, with the size that the disk had.
func pickState(r *images.Run, c *convert.Conversion) error {
	name, err := formats.ParseSnapshotName(r.String("snapshot"))
	if err != nil {
		return term.Usagef("-l %s: %w", r.String("snapshot"), err)
	}
	format, err := formats.Named(c.Source().Image.Format)
	if err != nil {
		return err
	}
	if format.States == nil {
		return &chain.RefusedError{Path: c.Source().Path, Reason: fmt.Sprintf("images of format %s have no internal snapshots", format.Name)}
	}
	c.State = func(image chain.Source) (chain.Source, error) {
		states, err := format.States(image)
		if err != nil {
			return nil, err
		}
		at, err := name.Find(listed(states), true)
		if err != nil {
			return nil, err
		}
		return states[at].Source, nil
	}
	sources, closeAll, err := r.Store.OpenSources(c.Nodes)
	if err != nil {
		return err
	}
	state, err := c.State(sources[len(sources)-1])
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", c.Source().Path, err), closeAll())
	}
	c.New.Size = state.Image().VirtualSize
	return closeAll()
}

// listed is what is asked of states to find one.
func listed(states []chain.State) []formats.Snapshot {
	list := make([]formats.Snapshot, len(states))
	for i, s := range states {
		list[i] = formats.Snapshot{ID: s.ID, Name: s.Name}
	}
	return list
}
