//go:build cgo

package libvirthost

import (
	"errors"
	"strings"
	"testing"
)

// The texts are those of libvirt 9.0 to 12.8.
func TestWhoCannotReachLibvirtIsToldWhatToDo(t *testing.T) {
	for text, want := range map[string]string{
		"Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory":                 "systemctl start libvirtd",
		"Failed to connect socket to '/var/run/libvirt/virtqemud-sock': Connection refused":                      "systemctl start virtqemud.socket",
		"Failed to connect socket to '/var/run/libvirt/libvirt-sock': Permission denied":                         "group libvirt",
		"authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'": "group libvirt",
		"cannot recv data: ssh: connect to host h port 22: Connection refused":                                   "",
		"no connection driver available for xyz:///system":                                                       "",
		"unable to connect to server at 'h:16509': Connection refused":                                           "",
	} {
		err := unreached(errors.New(text))
		if !strings.HasPrefix(err.Error(), text) || want == "" && err.Error() != text || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
