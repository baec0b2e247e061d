//go:build cgo

package libvirthost

import (
	"context"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// QEMUChains asks the QEMU of a running domain itself, past libvirt, what chains
// its disks have: target → paths, base first. libvirt marks the domain as tainted
// ("custom-monitor"), which has no effect but a line in its log.
func (h *Host) QEMUChains(_ context.Context, domain string) (chains map[string][]string, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return nil, err
	}
	defer dom.Free()
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return nil, err
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return nil, err
	}
	answer, err := dom.QemuMonitorCommand(`{"execute":"query-block"}`, libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
	if err != nil {
		return nil, err
	}
	return readQueryBlock(answer, aliases(&x))
}
