//go:build !cgo

package libvirthost

import (
	"context"

	"github.com/virt-rotate/virt-rotate/rotate/host"
)

// A Host is not built in: Open always fails.
type Host struct{ host.Host }

// Open returns ErrNoLibvirt.
func Open(string) (*Host, error) { return nil, ErrNoLibvirt }

// DomainNames is not built in.
func DomainNames(string) ([]string, error) { return nil, ErrNoLibvirt }

// SnapshotNames is not built in.
func SnapshotNames(string, string) ([]string, error) { return nil, ErrNoLibvirt }

// Close does nothing.
func (h *Host) Close() error { return nil }

// Outline is not built in.
func (h *Host) Outline(context.Context) ([]host.Domain, error) { return nil, ErrNoLibvirt }

// Configuration is not built in.
func (h *Host) Configuration(string) (string, error) { return "", ErrNoLibvirt }

// PlainDomain is not built in.
func (h *Host) PlainDomain(string, int) (string, error) { return "", ErrNoLibvirt }

// Define is not built in.
func (h *Host) Define(context.Context, NewDomain) ([]string, error) { return nil, ErrNoLibvirt }

// AgentCommand is not built in.
func (h *Host) AgentCommand(context.Context, string, string) (string, error) {
	return "", ErrNoLibvirt
}
