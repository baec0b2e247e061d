// Package nspawn boots Debian systems of their own with systemd, libvirt and a real guest, for tests of what a
// host gets. It needs root, and the network when a system is made.
package nspawn
