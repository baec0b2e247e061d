package libvirthost

import (
	"crypto/sha256"
	"sync"

	"libvirt.org/go/libvirtxml"
)

// mostTexts is how many texts of each kind are remembered. A domain that was read takes some tens of KiB, a snapshot
// some KiB.
const (
	mostDomainTexts   = 1 << 10
	mostSnapshotTexts = 1 << 14
)

// seenTexts are what libvirt's texts say that were read before: one run looks at a host many times, and most of it is as
// it was. What they say belongs to all, and nobody changes it. A nil one reads each text anew.
type seenTexts struct {
	mu        sync.Mutex // guards all below
	domains   map[[sha256.Size]byte]*libvirtxml.Domain
	snapshots map[[sha256.Size]byte]*namedSnapshot
}

func newSeenTexts() *seenTexts {
	return &seenTexts{domains: map[[sha256.Size]byte]*libvirtxml.Domain{}, snapshots: map[[sha256.Size]byte]*namedSnapshot{}}
}

// domain is what the configuration of a domain says.
func (t *seenTexts) domain(text string) (*libvirtxml.Domain, error) {
	if t == nil {
		return nameDomain(text)
	}
	return remembered(&t.mu, t.domains, mostDomainTexts, text, nameDomain)
}

// snapshot is what the metadata of a snapshot says.
func (t *seenTexts) snapshot(text string) (*namedSnapshot, error) {
	if t == nil {
		return nameSnapshot(text)
	}
	return remembered(&t.mu, t.snapshots, mostSnapshotTexts, text, nameSnapshot)
}

func nameDomain(text string) (*libvirtxml.Domain, error) {
	x := new(libvirtxml.Domain)
	return x, x.Unmarshal(text)
}

// remembered is what read says of the text, or said of the same one before. Once there are too many, all are forgotten;
// one that cannot be read is read each time.
func remembered[T any](mu *sync.Mutex, known map[[sha256.Size]byte]*T, most int, text string, read func(string) (*T, error)) (*T, error) {
	key := sha256.Sum256([]byte(text))
	mu.Lock()
	x := known[key]
	mu.Unlock()
	if x != nil {
		return x, nil
	}
	x, err := read(text)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	if len(known) >= most {
		clear(known)
	}
	known[key] = x
	return x, nil
}
