//go:build cgo

package libvirthost

import (
	"fmt"
	"strings"
)

// unreached says what can be done about err, which is why libvirt could not be reached.
func unreached(err error) error {
	if remedy := remedyOf(err.Error()); remedy != "" {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	return err
}

// remedyOf goes by libvirt's words: its error code for all of these is the same.
func remedyOf(text string) string {
	contains := func(s string) bool { return strings.Contains(text, s) }
	silent := contains("No such file or directory") || contains("Connection refused")
	switch {
	case contains("virtqemud-sock") && silent:
		return "virtqemud does not run; to start it: systemctl start virtqemud.socket"
	case contains("libvirt-sock") && silent:
		return "libvirtd does not run; to start it: systemctl start libvirtd"
	case contains("Permission denied"), contains("authentication unavailable"), contains("authentication failed"), contains("access denied"):
		return "libvirt lets in root and the members of the group libvirt"
	}
	return ""
}
