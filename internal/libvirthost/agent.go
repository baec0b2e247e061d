//go:build cgo

package libvirthost

import (
	"context"

	"libvirt.org/go/libvirt"
)

// AgentCommand gives the guest's agent a command, in JSON, and returns its answer.
func (h *Host) AgentCommand(_ context.Context, domain, command string) (answer string, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return "", err
	}
	defer dom.Free()
	return dom.QemuAgentCommand(command, libvirt.DomainQemuAgentCommandTimeout(agentPatience), 0)
}

// agentPatience is how long an agent may take to answer, in seconds.
const agentPatience = 20
