package guests

import (
	"context"

	"github.com/virt-rotate/virt-rotate/internal/hook"
	"github.com/virt-rotate/virt-rotate/rotate/decide"
)

// runHook starts a program of the policy.
func runHook(ctx context.Context, h decide.Hook) error {
	return hook.Run(ctx, hook.Program{Argv: h.Command, Env: h.Env, Timeout: h.Timeout, Output: h.Output})
}
