//go:build cgo

package libvirthost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// StoredConfiguration is the configuration of a domain that libvirt has on record with a
// snapshot, or, where it has none, the present persistent one; of a domain without either, the
// one that it runs with. It has what is secret in it.
func (h *Host) StoredConfiguration(domain, snapshot string) (text string, ofSnapshot bool, err error) {
	defer plain(&err)
	dom, err := h.domain(domain)
	if err != nil {
		return "", false, err
	}
	defer dom.Free()
	snap, err := dom.SnapshotLookupByName(snapshot, 0)
	if err != nil {
		return "", false, err
	}
	defer snap.Free()
	if text, err = snap.GetXMLDesc(libvirt.DOMAIN_SNAPSHOT_XML_SECURE); err != nil {
		return "", false, err
	}
	if stored, err := storedText(text); err == nil {
		return stored, true, nil
	}
	text, err = dom.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE | libvirt.DOMAIN_XML_SECURE)
	return text, false, err
}

// Owner tells which domain has a UUID, "" for none.
func (h *Host) Owner(uuid string) (name string, err error) {
	defer plain(&err)
	dom, err := h.conn.LookupDomainByUUIDString(uuid)
	if gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer dom.Free()
	return dom.GetName()
}

// Has tells whether there is a domain of that name.
func (h *Host) Has(name string) (yes bool, err error) {
	defer plain(&err)
	dom, err := h.conn.LookupDomainByName(name)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, dom.Free()
}

// MACs tells which domain has which address of a network card.
func (h *Host) MACs() (owners map[string]string, err error) {
	defer plain(&err)
	domains, err := h.conn.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	owners = map[string]string{}
	for i := range domains {
		name, nameErr := domains[i].GetName()
		text, textErr := domains[i].GetXMLDesc(0)
		_ = domains[i].Free()
		if nameErr != nil || textErr != nil {
			continue // it has just gone
		}
		root, err := parseNodes(text)
		if err != nil {
			return nil, fmt.Errorf("%s: domain XML: %w", name, err)
		}
		for _, mac := range root.all("devices", "interface", "mac") {
			owners[strings.ToLower(mac.attr("address"))] = name
		}
	}
	return owners, nil
}

// Machine is what this host runs a guest with that has such a configuration. What it lacks for
// that is an error of which libvirt's own words are the reason.
func (h *Host) Machine(text string) (m Machine, lacks string, err error) {
	defer plain(&err)
	root, err := parseDomain(text)
	if err != nil {
		return m, "", err
	}
	kind := root.all("os", "type")
	if len(kind) != 1 {
		return m, "", errors.New("domain XML: it does not say what machine it is")
	}
	said, err := h.conn.GetDomainCapabilities("", kind[0].attr("arch"), kind[0].attr("machine"), root.attr("type"), 0)
	if err != nil {
		return m, plainText(err), nil
	}
	var caps libvirtxml.DomainCaps
	if err := caps.Unmarshal(said); err != nil {
		return m, "", fmt.Errorf("domain capabilities: %w", err)
	}
	m.Emulator = caps.Path
	if caps.OS.Loader != nil && caps.OS.Loader.Values != nil {
		m.Loaders = caps.OS.Loader.Values
	}
	return m, "", nil
}

func plainText(err error) string {
	plain(&err)
	return err.Error()
}

// Lacks lists what this host has not got of what a configuration names.
func (h *Host) Lacks(text string) (lacks []string, err error) {
	root, err := parseDomain(text)
	if err != nil {
		return nil, err
	}
	for _, s := range root.all("devices", "interface", "source") {
		if name := s.attr("network"); name != "" && !h.hasNetwork(name) {
			lacks = append(lacks, "network "+name)
		}
		for _, device := range []string{s.attr("bridge"), s.attr("dev")} {
			if device != "" && !onHost(filepath.Join("/sys/class/net", filepath.Base(device))) {
				lacks = append(lacks, "network device "+device)
			}
		}
	}
	for _, a := range root.all("devices", "hostdev", "source", "address") {
		if place := pciPlace(a); a.attr("bus") != "" && a.attr("slot") != "" && !onHost("/sys/bus/pci/devices/"+place) {
			lacks = append(lacks, "PCI device "+place)
		}
	}
	for _, s := range root.all("devices", "disk", "source") {
		lacks = append(lacks, h.lacksSource(s)...)
	}
	for _, place := range [][]string{{"os", "loader"}, {"os", "kernel"}, {"os", "initrd"}} {
		for _, n := range root.all(place...) {
			if path := n.own(); path != "" && !onHost(path) {
				lacks = append(lacks, place[1]+" "+path)
			}
		}
	}
	return lacks, nil
}

func onHost(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (h *Host) hasNetwork(name string) bool {
	n, err := h.conn.LookupNetworkByName(name)
	if err != nil {
		return false
	}
	_ = n.Free()
	return true
}

// lacksSource tells of a disk that is not in the export what is missing of it. Images of the
// export are not there yet.
func (h *Host) lacksSource(s *node) (lacks []string) {
	if pool := s.attr("pool"); pool != "" {
		p, err := h.conn.LookupStoragePoolByName(pool)
		if err != nil {
			return []string{"storage pool " + pool}
		}
		_ = p.Free()
	}
	if dev := s.attr("dev"); dev != "" && !onHost(dev) {
		lacks = append(lacks, "device "+dev)
	}
	return lacks
}

// pciPlace is the name that Linux has for an address.
func pciPlace(a *node) string {
	part := func(name string, digits int) string {
		text := strings.ToLower(strings.TrimPrefix(strings.ToLower(a.attr(name)), "0x"))
		if len(text) < digits {
			text = strings.Repeat("0", digits-len(text)) + text
		}
		return filepath.Base(text)
	}
	return part("domain", 4) + ":" + part("bus", 2) + ":" + part("slot", 2) + "." + part("function", 1)
}

// DefineNew defines a domain that is not there: neither its name nor its UUID may be in use.
func (h *Host) DefineNew(text, name, uuid string) (err error) {
	defer plain(&err)
	owner, err := h.Owner(uuid)
	if err != nil {
		return err
	}
	there, err := h.Has(name)
	if err != nil {
		return err
	}
	if owner != "" || there {
		return fmt.Errorf("a domain %s, or one with the UUID %s, has come to be meanwhile: it stays as it is", name, uuid)
	}
	if err = h.redefine(text); err == nil {
		return nil
	}
	if owner, again := h.Owner(uuid); again != nil || owner != "" {
		return errors.Join(ErrNotSure, err, again)
	}
	return err
}

// ImageDir is where libvirt puts images: the directory of the pool called default, or the one
// that libvirt has built in.
func (h *Host) ImageDir() (dir string, err error) {
	if pool, err := h.conn.LookupStoragePoolByName("default"); err == nil {
		dir, err = poolDir(pool)
		_ = pool.Free()
		if err == nil && dir != "" {
			return dir, nil
		}
	}
	uri, err := h.conn.GetURI()
	if err != nil || !strings.HasSuffix(strings.SplitN(uri, "?", 2)[0], "/session") {
		return "/var/lib/libvirt/images", err
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local/share/libvirt/images"), err
}

// Refresh lets the pools learn of new images in their directory. A pool that cannot is none the
// worse for it.
func (h *Host) Refresh(dir string) {
	pools, err := h.conn.ListAllStoragePools(libvirt.CONNECT_LIST_STORAGE_POOLS_ACTIVE)
	if err != nil {
		return
	}
	for i := range pools {
		if at, err := poolDir(&pools[i]); err == nil && at != "" && filepath.Clean(at) == filepath.Clean(dir) {
			_ = pools[i].Refresh(0)
		}
		_ = pools[i].Free()
	}
}
