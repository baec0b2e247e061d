//go:build cgo

package libvirthost

import (
	"errors"
	"net/url"

	"libvirt.org/go/libvirt"
)

var errElsewhere = errors.New("not asked: the host is another one")

// DomainNames lists the domains of this host, for who is typing one. The connection is for
// reading only, and none is made to another host, which might ask for a password.
func DomainNames(uri string) (names []string, err error) {
	err = reading(uri, func(conn *libvirt.Connect) error {
		domains, err := conn.ListAllDomains(0)
		for i := range domains {
			if name, err := domains[i].GetName(); err == nil {
				names = append(names, name)
			}
			_ = domains[i].Free()
		}
		return err
	})
	return names, err
}

// SnapshotNames lists the snapshots of a domain, likewise.
func SnapshotNames(uri, domain string) (names []string, err error) {
	err = reading(uri, func(conn *libvirt.Connect) error {
		d, err := conn.LookupDomainByName(domain)
		if err != nil {
			return err
		}
		defer func() { _ = d.Free() }()
		names, err = d.SnapshotListNames(0)
		return err
	})
	return names, err
}

// reading calls ask with a connection that can change nothing.
func reading(uri string, ask func(*libvirt.Connect) error) (err error) {
	defer plain(&err)
	if u, err := url.Parse(uri); err != nil || u.Host != "" {
		return errElsewhere
	}
	conn, err := libvirt.NewConnectReadOnly(uri)
	if err != nil {
		return notInstalled(err)
	}
	defer func() { _, _ = conn.Close() }()
	return ask(conn)
}
