package rotate

import (
	"context"

	"github.com/virt-rotate/virt-rotate/rotate/engine"
	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A forgetful engine has what was seen of images forgotten once it may have written to some:
// a merge tells the images that build on what was merged, also those in no disk's chain.
type forgetful struct {
	engine.Engine
	forget func()
}

// changing is the engine for whatever writes to images.
func (r *Rotator) changing() engine.Engine { return forgetful{r.Engine, r.Observer.Forget} }

func (e forgetful) Overlay(ctx context.Context, path string, below host.Layer) error {
	defer e.forget()
	return e.Engine.Overlay(ctx, path, below)
}

func (e forgetful) Merge(ctx context.Context, m engine.Merge, progress func(done, total int64), then func() error) error {
	defer e.forget()
	return e.Engine.Merge(ctx, m, progress, func() error {
		e.forget()
		return then()
	})
}

func (e forgetful) Unfold(ctx context.Context, u []engine.Unfold, progress engine.Progress, then func() error) error {
	defer e.forget()
	return e.Engine.Unfold(ctx, u, progress, func() error {
		e.forget()
		return then()
	})
}

func (e forgetful) Graft(ctx context.Context, g engine.Graft) error {
	defer e.forget()
	return e.Engine.Graft(ctx, g)
}
