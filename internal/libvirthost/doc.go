// Package libvirthost lets rotation work on a libvirt host: it implements
// rotate.Host and is the only package that knows libvirt.
//
// Invariants: XML is changed by way of libvirtxml, and only where that loses nothing; no
// file is opened or changed here; a block job is started only by Merge and Copy, and its
// end is taken from libvirt's own state, never from an event alone.
package libvirthost

import "errors"

// ErrNotInstalled says that libvirt's client library is not on this host.
var ErrNotInstalled = errors.New("libvirt is not installed on this host: " +
	"install libvirt-clients (Debian, Ubuntu) or libvirt-client (Fedora and its family)")

// ErrNoLibvirt says that this binary was built without libvirt.
var ErrNoLibvirt = errors.New("this virt-rotate was built without libvirt (CGO_ENABLED=0): " +
	"use a build with cgo and -tags libvirt_dlopen for commands that need a hypervisor")
