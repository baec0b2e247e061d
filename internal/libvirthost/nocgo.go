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

// Mover is not built in.
func (h *Host) Mover() host.Mover { return nil }

// CanMigrate is not built in.
func CanMigrate() error { return ErrNoLibvirt }

// Outline is not built in.
func (h *Host) Outline(context.Context) ([]host.Domain, error) { return nil, ErrNoLibvirt }

// Configuration is not built in.
func (h *Host) Configuration(string) (string, error) { return "", ErrNoLibvirt }

// PlainDomain is not built in.
func (h *Host) PlainDomain(string, int) (string, error) { return "", ErrNoLibvirt }

// GuestDomain is not built in.
func (h *Host) GuestDomain(Guest) (string, bool, error) { return "", false, ErrNoLibvirt }

// Define is not built in.
func (h *Host) Define(context.Context, NewDomain) ([]string, error) { return nil, ErrNoLibvirt }

// StoredConfiguration is not built in.
func (h *Host) StoredConfiguration(string, string) (string, bool, error) {
	return "", false, ErrNoLibvirt
}

// Owner is not built in.
func (h *Host) Owner(string) (string, error) { return "", ErrNoLibvirt }

// Has is not built in.
func (h *Host) Has(string) (bool, error) { return false, ErrNoLibvirt }

// MACs is not built in.
func (h *Host) MACs() (map[string]string, error) { return nil, ErrNoLibvirt }

// Machine is not built in.
func (h *Host) Machine(string) (Machine, string, error) { return Machine{}, "", ErrNoLibvirt }

// Lacks is not built in.
func (h *Host) Lacks(string) ([]string, error) { return nil, ErrNoLibvirt }

// DefineNew is not built in.
func (h *Host) DefineNew(string, string, string) error { return ErrNoLibvirt }

// ImageDir is not built in.
func (h *Host) ImageDir() (string, error) { return "", ErrNoLibvirt }

// Refresh is not built in.
func (h *Host) Refresh(string) {}

// AgentCommand is not built in.
func (h *Host) AgentCommand(context.Context, string, string) (string, error) {
	return "", ErrNoLibvirt
}

// A Looker is not built in: OpenToLook always fails.
type Looker struct{ host.Looker }

// OpenToLook returns ErrNoLibvirt.
func OpenToLook(string, string) (*Looker, error) { return nil, ErrNoLibvirt }

// Close does nothing.
func (l *Looker) Close() error { return nil }
