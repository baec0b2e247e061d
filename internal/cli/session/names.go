package session

import (
	"github.com/virt-rotate/virt-rotate/internal/cli/term"
	"github.com/virt-rotate/virt-rotate/internal/libvirthost"
	"github.com/virt-rotate/virt-rotate/policy"
)

// DomainNames lists the domains of the host; none where it cannot be asked quickly.
func DomainNames(e *term.Env) []string {
	names, err := libvirthost.DomainNames(URI(e, quietPolicy(e)))
	if err != nil {
		return nil
	}
	return names
}

// SnapshotNames lists the snapshots of a domain.
func SnapshotNames(e *term.Env, domain string) []string {
	names, err := libvirthost.SnapshotNames(URI(e, quietPolicy(e)), domain)
	if err != nil {
		return nil
	}
	return names
}

// PolicyNames lists the policies of the file.
func PolicyNames(e *term.Env) []string {
	f := quietPolicy(e)
	names := make([]string, len(f.Rules))
	for i := range f.Rules {
		names[i] = f.Rules[i].Name
	}
	return names
}

// quietPolicy is an empty one where the file cannot be read.
func quietPolicy(e *term.Env) *policy.File {
	f, err := policy.Load(e.PolicyPath)
	if err != nil {
		return &policy.File{}
	}
	return f
}
