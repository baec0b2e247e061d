package libvirthost

import "github.com/virt-rotate/virt-rotate/rotate/host"

// Starting reads the XML that libvirt's hooks get of a guest which is about to start, or has ended. Libvirt must not be asked
// meanwhile, so of a volume of a storage pool its file is not known.
func Starting(name, text string) (*host.Domain, error) {
	d := &host.Domain{Name: name}
	if err := readDomain(d, text, nil); err != nil {
		return nil, err
	}
	return d, nil
}
