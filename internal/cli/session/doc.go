// Package session opens what commands for guests need: the policy, the connection to
// libvirt and the rotator on both.
package session
